/* Mixing in one pass. Compiled on first use where there is a C compiler: see native.py.
 *
 * A batch is `count` samples, `step` bytes apart. Each function mixes a range of every sample's
 * elements, so that threads share a batch without meeting. It goes along the cycles of the pairing,
 * a piece that fits the second cache at a time: one's partner is the next one to be mixed, and is
 * still in the cache. Smaller pieces would fit the first one, but memory is slow to start on each.
 * `out` may be `x`, if no two samples have the same partner: of each cycle the first one's piece is
 * then kept, for the last one, which comes when the first is mixed already.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 131072 /* bytes */
#define LANES 16   /* sums side by side */

/* All samples, each one's partner next to it where that is not done yet. The partner of the last one
 * of a cycle is done: it is written as -1 - partner. NULL without memory, and for a partner that is
 * not there. */
static int64_t *along_cycles(const int64_t *partner, int64_t count, int64_t **others) {
    for (int64_t i = 0; i < count; i++)
        if (partner[i] < 0 || partner[i] >= count) return NULL;
    int64_t *order = malloc(2 * count * sizeof *order);
    char *done = calloc(count, 1);
    int64_t length = 0;
    if (order && done) {
        *others = order + count;
        for (int64_t first = 0; first < count; first++)
            for (int64_t at = first; !done[at]; at = partner[at]) {
                done[at] = 1;
                order[length] = at;
                (*others)[length++] = done[partner[at]] ? -1 - partner[at] : partner[at];
            }
    } else {
        free(order);
        order = NULL;
    }
    free(done);
    return order;
}

/* Goes through a batch by a function NAME(out, own, other, lam, n) for a piece of a sample. Its
 * weights are floats if `single`, else doubles. */
#define BATCH(NAME, T, F)                                                                         \
    int mix_##NAME(char *out, int64_t out_step, const char *x, int64_t step,                      \
                   const int64_t *partner, const void *lam, int64_t single, int64_t count,        \
                   int64_t begin, int64_t end) {                                                  \
        const int64_t most = PIECE / sizeof(T);                                                   \
        T *kept = out == x ? malloc(PIECE) : NULL;                                                \
        int64_t *others, *order = along_cycles(partner, count, &others);                          \
        const int failed = !order ? 2 : out == x && !kept;                                        \
        for (int64_t at = failed ? end : begin; at < end; at += most) {                           \
            const int64_t n = end - at < most ? end - at : most;                                  \
            int opens = 1;                                                                        \
            for (int64_t place = 0; place < count; place++) {                                     \
                const int64_t i = order[place], j = others[place];                                \
                const T *own = (const T *)(x + i * step) + at;                                    \
                const T *other = (const T *)(x + (j < 0 ? -1 - j : j) * step) + at;               \
                if (out == x) {                                                                   \
                    if (opens) memcpy(kept, own, n * sizeof(T));                                  \
                    if (j < 0) other = kept;                                                      \
                    opens = j < 0;                                                                \
                }                                                                                 \
                const F weight = single ? ((const float *)lam)[i] : ((const double *)lam)[i];     \
                NAME((T *)(out + i * out_step) + at, own, other, weight, n);                      \
            }                                                                                     \
        }                                                                                         \
        free(order);                                                                              \
        free(kept);                                                                               \
        return failed;                                                                            \
    }

/* As torch.lerp does, so that 0 and 1 give exactly one side: from the nearer end. */
#define LERP(NAME, T, F, LOAD, STORE)                                                             \
    static void NAME(T *out, const T *own, const T *other, F lam, int64_t n) {                    \
        if (lam < (F)0.5)                                                                         \
            for (int64_t i = 0; i < n; i++) {                                                     \
                F a = LOAD(own[i]), b = LOAD(other[i]);                                           \
                out[i] = STORE(b + lam * (a - b));                                                \
            }                                                                                     \
        else {                                                                                    \
            const F rest = lam - (F)1;                                                            \
            for (int64_t i = 0; i < n; i++) {                                                     \
                F a = LOAD(own[i]), b = LOAD(other[i]);                                           \
                out[i] = STORE(a + rest * (a - b));                                               \
            }                                                                                     \
        }                                                                                         \
    }                                                                                             \
    BATCH(NAME, T, F)

#define SAME(x) (x)

static inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float from_bfloat16(uint16_t x) { return from_bits((uint32_t)x << 16); }

/* To nearest, ties to even; what is not a number stays one. */
static inline uint16_t to_bfloat16(float x) {
    const uint32_t bits = to_bits(x);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

LERP(float32, float, float, SAME, SAME)
LERP(float64, double, double, SAME, SAME)
LERP(bfloat16, uint16_t, float, from_bfloat16, to_bfloat16)

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>

static void float16(uint16_t *out, const uint16_t *own, const uint16_t *other, float lam,
                    int64_t n) {
    const int near = lam < 0.5f;
    const __m256 slope = _mm256_set1_ps(near ? lam : lam - 1.0f);
    for (int64_t i = 0; i < n; i += 8) {
        uint16_t parts[2][8], *to = out + i;
        const uint16_t *a = own + i, *b = other + i;
        if (n - i < 8) { /* the last few, by way of a full register */
            memcpy(parts[0], a, (n - i) * 2);
            memcpy(parts[1], b, (n - i) * 2);
            a = parts[0], b = parts[1], to = parts[0];
        }
        const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)a));
        const __m256 y = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)b));
        const __m256 change = _mm256_mul_ps(slope, _mm256_sub_ps(x, y));
        const __m256 mixed = _mm256_add_ps(near ? y : x, change);
        _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(mixed, _MM_FROUND_TO_NEAREST_INT));
        if (n - i < 8) memcpy(out + i, parts[0], (n - i) * 2);
    }
}
BATCH(float16, uint16_t, float)
#elif defined(HALF)
LERP(float16, _Float16, float, (float), (_Float16))
#endif

/* The nearest integer to the exact value, ties to even. With MAGIC = 1.5 * 2^23 a float has steps of
 * 1: one fused multiply-add rounds, and the integer is in the lowest bits. MAGIC + b is b's bits
 * added to MAGIC's. */
#define MAGIC 0x4B400000

static inline uint8_t nearest(uint8_t own, uint8_t other, float lam) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    const float apart = (float)((int32_t)own - (int32_t)other);
    return (uint8_t)to_bits(__builtin_fmaf(lam, apart, from_bits(MAGIC + (uint32_t)other)));
#else
    const double exact = other + (double)lam * ((int32_t)own - (int32_t)other);
    return (uint8_t)(int64_t)__builtin_rint(exact);
#endif
}

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

/* Of 8 bytes, each of which is the lowest of MAGIC's bits. */
static inline __m256i nearest_8(__m256i own, __m256i other, __m256 lam) {
    const __m256 a = _mm256_castsi256_ps(own), b = _mm256_castsi256_ps(other);
    const __m256 mixed = _mm256_fmadd_ps(lam, _mm256_sub_ps(a, b), b);
    return _mm256_and_si256(_mm256_castps_si256(mixed), _mm256_set1_epi32(255));
}

/* Of 16 bytes, each in 16 bits. */
static inline __m256i nearest_16(__m256i own, __m256i other, __m256 lam) {
    const __m256i magic = _mm256_set1_epi16(MAGIC >> 16);
    return _mm256_packus_epi32(nearest_8(_mm256_unpacklo_epi16(own, magic),
                                         _mm256_unpacklo_epi16(other, magic), lam),
                               nearest_8(_mm256_unpackhi_epi16(own, magic),
                                         _mm256_unpackhi_epi16(other, magic), lam));
}
#endif

static void uint8(uint8_t *out, const uint8_t *own, const uint8_t *other, float lam, int64_t n) {
    int64_t i = 0;
#if defined(__AVX2__) && defined(__FMA__) /* compilers alone get half of this speed */
    const __m256 weight = _mm256_set1_ps(lam);
    const __m256i zero = _mm256_setzero_si256();
    for (; i + 32 <= n; i += 32) { /* packing puts back in order what unpacking took apart */
        const __m256i a = _mm256_loadu_si256((const __m256i *)(own + i));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(other + i));
        const __m256i first = nearest_16(_mm256_unpacklo_epi8(a, zero),
                                         _mm256_unpacklo_epi8(b, zero), weight);
        const __m256i last = nearest_16(_mm256_unpackhi_epi8(a, zero),
                                        _mm256_unpackhi_epi8(b, zero), weight);
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_packus_epi16(first, last));
    }
#endif
    for (; i < n; i++) out[i] = nearest(own[i], other[i], lam);
}
BATCH(uint8, uint8_t, float)

typedef char vector __attribute__((vector_size(32), aligned(1), may_alias));
typedef char half_vector __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint64_t eight __attribute__((aligned(1), may_alias));
typedef uint32_t four __attribute__((aligned(1), may_alias));

/* The first and the last bytes, which may overlap. */
#define ENDS(T)                                                                                   \
    if (n >= (int64_t)sizeof(T)) {                                                                \
        const T last = *(const T *)(from + n - sizeof(T));                                        \
        *(T *)to = *(const T *)from;                                                              \
        *(T *)(to + n - sizeof(T)) = last;                                                        \
        return;                                                                                   \
    }

/* memcpy of a few kilobytes may take a path made for megabytes; lines of a box are short. */
static inline void copy(char *to, const char *from, int64_t n) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) *(vector *)(to + i) = *(const vector *)(from + i);
    if (i == n) return;
    if (i) {
        *(vector *)(to + n - 32) = *(const vector *)(from + n - 32);
        return;
    }
    ENDS(half_vector)
    ENDS(eight)
    ENDS(four)
    for (; i < n; i++) to[i] = from[i];
}

static inline int64_t within(int64_t x, int64_t most) {
    return x < 0 ? 0 : x > most ? most : x;
}

/* The own sample outside a box, the partner inside: images of planes of `height` lines of `width`
 * bytes, `pixel` of them a position. The lines from begin to end, counted through all planes, are
 * mixed. */
int paste(char *out, int64_t out_step, const char *x, int64_t step, const int64_t *partner,
          const int64_t *edges, int64_t count, int64_t height, int64_t width, int64_t pixel,
          int64_t begin, int64_t end) {
    const int64_t most = width < PIECE ? PIECE / width : 1; /* lines of a piece */
    char *kept = out == x ? malloc(most * width) : NULL;
    int64_t *others, *order = along_cycles(partner, count, &others);
    const int failed = !order ? 2 : out == x && !kept;
    for (int64_t from = failed ? end : begin; from < end; from += most) {
        const int64_t to = end - from < most ? end : from + most;
        int opens = 1;
        for (int64_t place = 0; place < count; place++) {
            const int64_t i = order[place], j = others[place];
            const int64_t top = within(edges[4 * i], height);
            const int64_t bottom = within(edges[4 * i + 1], height);
            const int64_t left = within(edges[4 * i + 2], width / pixel) * pixel;
            const int64_t across = within(edges[4 * i + 3], width / pixel) * pixel - left;
            const char *own = x + i * step + from * width;
            const char *other = x + (j < 0 ? -1 - j : j) * step + from * width;
            char *mixed = out + i * out_step + from * width;
            if (out == x) {
                if (opens) memcpy(kept, own, (to - from) * width);
                if (j < 0) other = kept;
                opens = j < 0;
            } else
                copy(mixed, own, (to - from) * width);
            if (across <= 0) continue;
            /* Plane by plane, those of the box's lines that are in this piece. */
            for (int64_t plane = from / height * height; plane < to; plane += height) {
                const int64_t last = plane + bottom < to ? plane + bottom : to;
                for (int64_t line = plane + top > from ? plane + top : from; line < last; line++) {
                    const int64_t at = (line - from) * width + left;
                    copy(mixed + at, other + at, across);
                }
            }
        }
    }
    free(order);
    free(kept);
    return failed;
}

/* CutMix's boxes, (count, 4), in the single precision of interpolation/masks.py, and the share that
 * each leaves of the own image. */
void draw_boxes(int64_t *edges, float *share, const float *lam, const float *centre, int64_t count,
                int64_t height, int64_t width) {
    const int64_t whole = height * width;
    for (int64_t i = 0; i < count; i++) {
        const float area = 1.0f - lam[i]; /* what is not a number has no box */
        const float root = area > 0 ? __builtin_sqrtf(area < 1 ? area : 1) : 0;
        int64_t inside = 1;
        for (int axis = 0; axis < 2; axis++) {
            const float size = (float)(axis ? width : height);
            const float side = __builtin_rintf(root * size);
            const float low = __builtin_floorf(centre[2 * i + axis] * size) -
                              __builtin_floorf(side / 2);
            const int64_t first = low > 0 ? (int64_t)low : 0;
            const int64_t last = (int64_t)(low + side < size ? low + side : size);
            edges[4 * i + 2 * axis] = first;
            edges[4 * i + 2 * axis + 1] = last;
            inside *= last > first ? last - first : 0;
        }
        share[i] = (float)(whole - inside) / (float)whole;
    }
}

/* ---------------------------------------------------------------------------- two-class losses */

#include <math.h>

static inline float largest(const float *z, int64_t n, float most) {
    float lane[LANES];
    int64_t i = 0;
    for (int k = 0; k < LANES; k++) lane[k] = most;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] = z[i + k] > lane[k] ? z[i + k] : lane[k];
    for (; i < n; i++) most = z[i] > most ? z[i] : most;
    for (int k = 0; k < LANES; k++) most = lane[k] > most ? lane[k] : most;
    return most;
}

/* e^x for x <= 0 within two units in the last place, 1e-38 for what is less; Cephes' polynomial. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x; /* what is not a number stays one */
    const float shifted = x * 1.44269504088896341f + 12582912.0f;
    const float whole = shifted - 12582912.0f;
    const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((to_bits(shifted) - MAGIC + 127) << 23);
}

/* Writes exp(z - most), and returns the sum: in double of the lanes' sums of a piece. */
static double exponentials(float *out, const float *z, int64_t n, float most) {
    double sum = 0;
    for (int64_t at = 0; at < n; at += 1024) {
        const int64_t length = n - at < 1024 ? n - at : 1024;
        float lane[LANES] = {0};
        int64_t i = 0;
        for (; i < length; i++) out[at + i] = exponential(z[at + i] - most);
        for (i = 0; i + LANES <= length; i += LANES)
            for (int k = 0; k < LANES; k++) lane[k] += out[at + i + k];
        for (; i < length; i++) sum += out[at + i];
        for (int k = 0; k < LANES; k++) sum += lane[k];
    }
    return sum;
}

static inline double log_add(double x, double y) {
    const double most = x > y ? x : y;
    return most == -INFINITY ? most : most + log1p(exp(-fabs(x - y)));
}

/* The loss of one row, and what its gradient is made of: see two_class.py, whose names these are.
 * `e` gets exp(z - most), which the factor turns into the gradient, with 0 at a and b where there is
 * an eta; `work` gets the loss, the factor and what is added at a and at b. */
static void two_class_row(const float *row, int64_t classes, int64_t a, int64_t b,
                          const double alpha[2], const double *eta, float *e, float work[4]) {
    double sum;
    float most;
    if (eta) {
        const int64_t low = a < b ? a : b, high = a < b ? b : a;
        const int64_t between = high > low ? high - low - 1 : 0;
        most = largest(row, low, -INFINITY);
        most = largest(row + low + 1, between, most);
        most = largest(row + high + 1, classes - high - 1, most);
        const float base = most == -INFINITY ? 0 : most;
        sum = exponentials(e, row, low, base);
        sum += exponentials(e + low + 1, row + low + 1, between, base);
        sum += exponentials(e + high + 1, row + high + 1, classes - high - 1, base);
        e[a] = e[b] = 0;
    } else {
        most = largest(row, classes, -INFINITY);
        sum = exponentials(e, row, classes, most);
    }
    const int none = most == -INFINITY && sum == sum; /* no other class, or none possible */
    const double rest = none ? -INFINITY : most + log(sum);
    const double chosen[2] = {row[a], row[b]};
    double log_z = rest;
    if (eta) {
        log_z = log_add(log_z, chosen[0]);
        if (a != b) log_z = log_add(log_z, chosen[1]);
    }
    const double total = alpha[0] + alpha[1];
    double loss = 0, factor = none ? 0 : total * exp(most - log_z);
    for (int k = 0; k < 2; k++) {
        double at = -alpha[k];
        if (eta && !(k && a == b)) at += total * exp(chosen[k] - log_z);
        if (alpha[k] > 0) loss += alpha[k] * (log_z - chosen[k]);
        if (eta && eta[k] > 0 && a != b && !none) {
            const double excess = rest - chosen[k], pull = eta[k] / (1 + exp(-excess));
            loss += eta[k] * (excess > 700 ? excess : log1p(exp(excess)));
            at -= pull;
            factor += pull / sum;
        }
        work[2 + k] = (float)at;
    }
    work[0] = (float)(rest != rest ? rest : loss);
    work[1] = (float)factor;
}

/* Turns what two_class_row left in a row into the gradient, times `up`. */
static void finish_row(float *row, int64_t classes, int64_t a, int64_t b, const float work[4],
                       float up) {
    const float factor = work[1] * up;
    for (int64_t c = 0; c < classes; c++) row[c] *= factor;
    row[a] += work[2] * up;
    row[b] += work[3] * up;
}

/* The losses of rows begin to end. The weights are alpha's and eta's two columns; without alpha,
 * lam and 1 - lam, and for eta `pull` times these (times 1 if `uniform`), for b none if `one_sided`.
 * With `work` what two_class_gradient needs is kept there and in r. Without, r gets the gradient of
 * `scale` times their sum, which `total` gets. Returns 2 for a class that does not exist. */
int two_class(const float *z, int64_t step, const int64_t *a, const int64_t *b, const float *lam,
              const float *alpha, const float *eta, double pull, int64_t uniform, int64_t one_sided,
              int64_t classes, float *r, float *work, double scale, float *total, int64_t begin,
              int64_t end) {
    float *scratch = r ? NULL : malloc(classes * sizeof *scratch);
    if (!r && !scratch) return 1;
    double sum = 0;
    for (int64_t i = begin; i < end; i++) {
        if (a[i] < 0 || b[i] < 0 || a[i] >= classes || b[i] >= classes) {
            free(scratch);
            return 2;
        }
        double share[2], hard[2];
        if (alpha) {
            for (int k = 0; k < 2; k++) share[k] = alpha[2 * i + k];
            if (eta)
                for (int k = 0; k < 2; k++) hard[k] = eta[2 * i + k];
        } else {
            share[0] = lam[i];
            share[1] = 1.0f - lam[i];
            for (int k = 0; k < 2; k++) hard[k] = pull * (uniform ? 1 : share[k]);
            if (one_sided) hard[1] = 0;
        }
        const double *decoupled = alpha ? (eta ? hard : NULL) : (pull > 0 ? hard : NULL);
        float *e = r ? r + i * classes : scratch, own[4], *result = work ? work + 4 * i : own;
        two_class_row(z + i * step, classes, a[i], b[i], share, decoupled, e, result);
        if (r && !work) finish_row(e, classes, a[i], b[i], result, (float)scale);
        sum += result[0];
    }
    if (total) *total = (float)(sum * scale);
    free(scratch);
    return 0;
}

/* Turns r into the gradient, of rows begin to end, by each one's upstream. */
int two_class_gradient(float *r, const int64_t *a, const int64_t *b, const float *work,
                       const float *upstream, int64_t step, int64_t classes, int64_t begin,
                       int64_t end) {
    for (int64_t i = begin; i < end; i++)
        finish_row(r + i * classes, classes, a[i], b[i], work + 4 * i, upstream[i * step]);
    return 0;
}

/* -------------------------------------------------------------------- binary losses of few classes */

/* log(1 + e) for e in [0, 1] to single precision, however small: 2 artanh(e / (2 + e)). */
static inline float log_one_plus(float e) {
    const float s = e / (2.0f + e), q = s * s;
    float p = 2.0f / 15;
    p = p * q + 2.0f / 13;
    p = p * q + 2.0f / 11;
    p = p * q + 2.0f / 9;
    p = p * q + 2.0f / 7;
    p = p * q + 2.0f / 5;
    p = p * q + 2.0f / 3;
    p = p * q + 2.0f;
    return p * s;
}

/* The sum of log(1 + exp z) over a row but for the classes of `own`, and scale * sigmoid(z) in r. */
static double all_absent(const float *z, int64_t classes, const int64_t *own, int64_t k, float *r,
                         float scale) {
    float part[1024];
    double sum = 0;
    for (int64_t at = 0; at < classes; at += 1024) {
        const int64_t n = classes - at < 1024 ? classes - at : 1024;
        float lane[LANES] = {0};
        int64_t i = 0;
        if (r)
            for (; i < n; i++) {
                const float x = z[at + i], e = exponential(x < 0 ? x : -x);
                part[i] = (x < 0 ? 0 : x) + log_one_plus(e);
                r[at + i] = scale * (x < 0 ? e : 1.0f) / (1.0f + e);
            }
        else
            for (; i < n; i++) {
                const float x = z[at + i];
                part[i] = (x < 0 ? 0 : x) + log_one_plus(exponential(x < 0 ? x : -x));
            }
        for (int64_t j = 0; j < k; j++)
            if (own[j] >= at && own[j] < at + n) part[own[j] - at] = 0;
        for (i = 0; i + LANES <= n; i += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += part[i + l];
        for (; i < n; i++) sum += part[i];
        for (int l = 0; l < LANES; l++) sum += lane[l];
    }
    return sum;
}

/* The loss of a row with k classes and their shares, summed over classes: see multi_hot.py. `r`, where
 * there is one, gets `scale` times the gradient. */
static float multi_hot_row(const float *z, int64_t classes, const int64_t *own, const float *share,
                           int64_t k, double scale, float *r) {
    double sum = all_absent(z, classes, own, k, r, (float)scale);
    for (int64_t j = 0; j < k; j++) {
        float y = 0;
        int again = 0;
        for (int64_t l = 0; l < k; l++)
            if (own[l] == own[j]) {
                again |= l < j;
                y += share[l];
            }
        if (again) continue;
        y = y > 1 ? 1 : y; /* what is not a number stays one */
        const double x = z[own[j]], e = exp(-fabs(x)), low = e / (1 + e);
        const double rest = x > 0 ? 1.0 - y : y;
        sum += x != x ? x : log1p(e) + (rest == 0 ? 0 : rest * fabs(x));
        if (r) r[own[j]] = (float)(scale * (x > 0 ? rest - low : low - rest));
    }
    return (float)sum;
}

/* The losses of rows begin to end, of k classes a sample. Returns 2 for one that does not exist. */
int multi_hot(const float *z, int64_t step, const int64_t *index, const float *share, int64_t k,
              int64_t classes, double scale, float *r, float *loss, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        for (int64_t j = i * k; j < (i + 1) * k; j++)
            if (index[j] < 0 || index[j] >= classes) return 2;
        loss[i] = multi_hot_row(z + i * step, classes, index + i * k, share + i * k, k, scale,
                                r ? r + i * classes : NULL);
    }
    return 0;
}

static inline float rescaled(float share, float t, double k) {
    const float part = share / t;
    return part >= 1 ? 1 : k == 1 ? part : (float)pow(part, k);
}

/* The same of two classes, whose shares are lam's: min(1, (lam / t)^k); the partner's is 1 - lam as
 * it is where the own sample's `alone` is rescaled. */
int two_hot(const float *z, int64_t step, const int64_t *a, const int64_t *b, const float *lam,
            double t, double k, int64_t alone, int64_t classes, double scale, float *r, float *loss,
            int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        const int64_t own[2] = {a[i], b[i]};
        if (own[0] < 0 || own[1] < 0 || own[0] >= classes || own[1] >= classes) return 2;
        const float other = 1.0f - lam[i];
        const float share[2] = {rescaled(lam[i], (float)t, k),
                                alone ? other : rescaled(other, (float)t, k)};
        loss[i] = multi_hot_row(z + i * step, classes, own, share, 2, scale,
                                r ? r + i * classes : NULL);
    }
    return 0;
}

/* ------------------------------------------------------------------------- mixed classifiers' loss */

/* Writes S, and each column's largest: see contrast.py. */
static void similarities(float *s, float *most, const float *z, int64_t step, const int64_t *a,
                         const int64_t *b, const float *lam, int64_t count) {
    for (int64_t j = 0; j < count; j++) most[j] = -INFINITY;
    for (int64_t i = 0; i < count; i++, z += step, s += count)
        for (int64_t j = 0; j < count; j++) {
            const float own = z[a[j]], other = z[b[j]];
            const float value = lam[j] < 0.5f ? other + lam[j] * (own - other)
                                              : own - (1.0f - lam[j]) * (own - other);
            s[j] = value;
            most[j] = value > most[j] ? value : most[j];
        }
}

/* The losses of `count` samples against their mixed classifiers: over the classifiers if `by_class`,
 * over the samples if `by_pair`. `r`, where there is one, gets the gradient of `scale` times their
 * sum. Returns 1 without memory, 2 for a class that does not exist. */
int contrast(const float *z, int64_t step, const int64_t *a, const int64_t *b, const float *lam,
             int64_t count, int64_t classes, int64_t by_class, int64_t by_pair, double scale,
             float *r, float *loss) {
    for (int64_t j = 0; j < count; j++)
        if (a[j] < 0 || b[j] < 0 || a[j] >= classes || b[j] >= classes) return 2;
    double *sums = calloc(count, sizeof *sums);
    float *s = malloc((2 * count + 3) * count * sizeof *s);
    if (!sums || !s) {
        free(sums);
        free(s);
        return 1;
    }
    float *down = s + count * count, *most = down + count * count, *across = most + count;
    float *part = across + count;
    similarities(s, most, z, step, a, b, lam, count);
    if (by_pair) {
        for (int64_t i = 0; i < count; i++) {
            const float *row = s + i * count;
            float *e = down + i * count;
            for (int64_t j = 0; j < count; j++) e[j] = exponential(row[j] - most[j]);
            for (int64_t j = 0; j < count; j++) sums[j] += e[j];
        }
        for (int64_t j = 0; j < count; j++) part[j] = (float)(scale / sums[j]);
    }
    const float own_share = (float)(scale * ((by_class != 0) + (by_pair != 0)));
    for (int64_t i = 0; i < count; i++) {
        const float *row = s + i * count, *e = down + i * count;
        const double own = row[i];
        double value = by_pair ? most[i] + log(sums[i]) - own : 0;
        float factor = 0;
        if (by_class) {
            const float high = largest(row, count, -INFINITY);
            const double sum = exponentials(across, row, count, high);
            value += high + log(sum) - own;
            factor = (float)(scale / sum);
        }
        loss[i] = (float)value;
        if (!r) continue;
        float *to = r + i * classes;
        if (by_class && by_pair)
            for (int64_t j = 0; j < count; j++) across[j] = across[j] * factor + e[j] * part[j];
        else if (by_class)
            for (int64_t j = 0; j < count; j++) across[j] *= factor;
        else
            for (int64_t j = 0; j < count; j++) across[j] = e[j] * part[j];
        across[i] -= own_share;
        memset(to, 0, classes * sizeof *to);
        for (int64_t j = 0; j < count; j++) {
            const float mine = across[j] * lam[j];
            to[a[j]] += mine;
            to[b[j]] += across[j] - mine;
        }
    }
    free(sums);
    free(s);
    return 0;
}

/* --------------------------------------------------------------------------------------- checks */

/* Whether all are finite: a sum of x * 0 is 0 then, and not a number else. */
int all_finite(const float *x, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += x[i + k] * 0.0f;
    for (; i < n; i++) lane[0] += x[i] * 0.0f;
    for (int k = 1; k < LANES; k++) lane[0] += lane[k];
    return lane[0] == 0;
}

/* The same in half precision, from the bits of the exponent: all ones where it is not finite. */
int all_finite_half(const uint16_t *x, int64_t n, int64_t exponent) {
    const uint16_t ones = (uint16_t)exponent;
    uint16_t found = 0;
    for (int64_t i = 0; i < n; i++) found |= (x[i] & ones) == ones;
    return !found;
}

/* Whether all lie in [0, most]. */
int all_within(const int64_t *x, int64_t n, int64_t most) {
    int64_t outside = 0;
    for (int64_t i = 0; i < n; i++) outside |= x[i] | (most - x[i]);
    return outside >= 0;
}

/* ------------------------------------------------------------------------------------- distances */

/* Adds to `sums` the squared distance of each sample to its partner, of elements begin to end. */
int pair_distance(const char *x, int64_t step, const int64_t *partner, double *sums, int64_t count,
                  int64_t begin, int64_t end) {
    const int64_t most = PIECE / sizeof(float);
    int64_t *others, *order = along_cycles(partner, count, &others);
    if (!order) return 2;
    for (int64_t at = begin; at < end; at += most) {
        const int64_t n = end - at < most ? end - at : most;
        for (int64_t place = 0; place < count; place++) {
            const int64_t i = order[place];
            const float *own = (const float *)(x + i * step) + at;
            const float *other = (const float *)(x + partner[i] * step) + at;
            float lane[LANES] = {0};
            int64_t k = 0;
            for (; k + LANES <= n; k += LANES)
                for (int l = 0; l < LANES; l++) {
                    const float apart = own[k + l] - other[k + l];
                    lane[l] += apart * apart;
                }
            for (; k < n; k++) lane[0] += (own[k] - other[k]) * (own[k] - other[k]);
            for (int l = 0; l < LANES; l++) sums[i] += lane[l];
        }
    }
    free(order);
    return 0;
}

/* ---------------------------------------------------------------------- the inverse Beta function */

#define TAU_MIN 1e-30
#define TAU_MAX 1e6
#define TERMS 5      /* of a cell's polynomial along either side */
#define ALL_TERMS 19 /* of both: y^j x^i with i, j < TERMS and i + j <= TERMS */

static inline double polynomial(const double *factors, int count, double x) {
    double result = factors[count - 1];
    for (int i = count - 2; i >= 0; i--) result = factors[i] + result * x;
    return result;
}

/* The square of the normal quantile of 0 < p <= 1/2, by algorithm AS 241: M. J. Wichura, "The
 * percentage points of the normal distribution", Applied Statistics 37 (1988). */
static double normal_quantile_squared(double p) {
    static const double near[2][8] = {
        {3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427,
         13731.693765509461125, 45921.953931549871457, 67265.770927008700853,
         33430.575583588128105, 2509.0809287301226727},
        {1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077,
         21213.794301586595867, 39307.895800092710610, 28729.085735721942674,
         5226.4952788528545610}};
    static const double middle[2][8] = {
        {1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550,
         3.64784832476320460504, 1.27045825245236838258, 0.241780725177450611770,
         0.0227238449892691845833, 7.74545014278341407640e-4},
        {1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550,
         0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4,
         1.05075007164441684324e-9}};
    static const double far[2][8] = {
        {6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580,
         0.296560571828504891230, 0.0265321895265761230930, 1.24266094738807843860e-3,
         2.71155556874348757815e-5, 2.01033439929228813265e-7},
        {1.0, 0.599832206555887937690, 0.136929880922735805310, 0.0148753612908506148525,
         7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
         2.04426310338993978564e-15}};
    const double apart = 0.5 - p;
    const int is_near = apart <= 0.425;
    const double root = is_near ? 0 : sqrt(-log(p));
    const double x = is_near ? 0.180625 - apart * apart : root <= 5 ? root - 1.6 : root - 5;
    const double (*factors)[8] = is_near ? near : root <= 5 ? middle : far;
    const double ratio = polynomial(factors[0], 8, x) / polynomial(factors[1], 8, x);
    return ratio * ratio * (is_near ? apart * apart : 1);
}

static inline double of_cell(const double *factors, double x, double y) {
    double of_j[TERMS];
    for (int j = 0; j < TERMS; j++) {
        const int count = j ? TERMS + 1 - j : TERMS;
        of_j[j] = polynomial(factors, count, x);
        factors += count;
    }
    return polynomial(of_j, TERMS, y);
}

/* The lambda with I(lambda; tau, tau) = u, of pairs begin to end: functional.beta_icdf, whose names
 * these are. The table has `rows` cells along p, each with twice `columns` along tau. */
int beta_icdf(double *lam, const double *u, const double *tau, const double *table, int64_t rows,
              int64_t columns, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        if (u[i] != u[i] || tau[i] != tau[i]) {
            lam[i] = NAN;
            continue;
        }
        const double t = tau[i] < TAU_MIN ? TAU_MIN : tau[i] > TAU_MAX ? TAU_MAX : tau[i];
        const double along_tau = t / (t + 1) * (double)(2 * columns);
        const int64_t column = (int64_t)along_tau;
        const int is_large = column >= columns;
        const double lower = u[i] < 0 ? 0 : u[i], upper = u[i] > 1 ? 0 : 1 - u[i];
        const double p = lower < upper ? lower : upper;
        double start = -1e300;
        if (p > 0) start = (is_large ? -0.5 * normal_quantile_squared(p) : log(2 * p)) / t;
        if (start < -1e300) start = -1e300; /* lambda is 0 long before */
        const double share = is_large ? start / (start - 6) : -expm1(start);
        const double along_p = share * (double)rows;
        const int64_t row = within((int64_t)along_p, rows - 1);
        const double *cell = table + ALL_TERMS * (row * 2 * columns + column);
        const double x = along_p - (double)row - 0.5, y = along_tau - (double)column - 0.5;
        double correction = share * of_cell(cell, x, y);
        if (is_large) correction += 0.5 * log1p(-0.5 * start);
        const double exponent = start - (is_large ? 1 / t : t) * correction;
        const double odds = exp(exponent);
        const double lesser = odds / (is_large ? 2 + 2 * sqrt(-expm1(exponent)) : 1 + odds);
        lam[i] = u[i] < 0.5 ? lesser : 1 - lesser;
    }
    return 0;
}
