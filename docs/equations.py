"""The methods' equations in LaTeX, a line each: what ``mixwell describe`` tells in plain text."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

__all__ = ["EQUATIONS", "mathml"]

BETA = r"\lambda_i \sim \mathrm{Beta}(\alpha, \alpha)"
LINEAR = r"\tilde{x}_i = \lambda_i x_i + (1 - \lambda_i) x_{\sigma(i)}"
LINEAR_Y = r"\tilde{y}_i = \lambda_i y_i + (1 - \lambda_i) y_{\sigma(i)}"
MASK = (
    r"\tilde{x}_i = M_i \odot x_i + (1 - M_i) \odot x_{\sigma(i)}, "
    r"\quad \lambda_i \leftarrow \mathrm{mean}(M_i)"
)
LOSS = r"L_i = -\lambda_i \log p_i[y_i] - (1 - \lambda_i) \log p_i[y_{\sigma(i)}]"

EQUATIONS: dict[str, tuple[str, ...]] = {
    "alignmix": (
        BETA + r", \quad f \text{: the last feature maps, } r \text{ positions of } d "
        r"\text{ channels}",
        r"R = \mathrm{argmin} \sum_{kl} R_{kl} \| f_k(x_i) - f_l(x_{\sigma(i)}) \|^2 - \epsilon H(R), "
        r"\quad \text{rows and columns sum to } 1",
        r"\tilde{f}_i = \lambda_i f(x_i) + (1 - \lambda_i) R f(x_{\sigma(i)}) \quad \text{or} \quad "
        r"\lambda_i R^\top f(x_i) + (1 - \lambda_i) f(x_{\sigma(i)})",
        r"\text{or, by chance, } " + LINEAR,
        LOSS,
    ),
    "am_mixup": (
        r"\text{pairs: } y_{\sigma(i)} \neq y_i",
        r"\hat{f}_i = \lambda_t f_i + (1 - \lambda_t) f_{\sigma(i)}, \quad "
        r"\text{or toward the centre of } \sigma(i) \text{’s class}",
        r"\lambda_t = \frac{1}{2} + \left( \lambda_0 - \frac{1}{2} \right) e^{-k t}, "
        r"\quad t \in [0, 1]",
        r"L = \mathrm{CE}(W f, y) + \mathrm{weight} \cdot \mathrm{CE}(W \hat{f}, y)",
    ),
    "attentivemix": (
        r"A = \text{mean over channels of the last feature maps of } x_{\sigma(i)}, \; "
        r"h \times w \text{ cells}",
        r"M_i = 0 \text{ in the } \mathrm{round}((1 - \lambda) h w) \text{ cells of greatest } A, "
        r"\; 1 \text{ elsewhere}, \quad \lambda = \frac{43}{49}",
        MASK,
        LOSS,
    ),
    "automix": (
        r"z = \text{feature maps of } k \text{, the momentum copy of the model;} \quad "
        r"z_\lambda = [z_i, \lambda], \; z_{1-\lambda} = [z_{\sigma(i)}, 1 - \lambda]",
        r"M_i = \mathrm{sigmoid} \left( \mathrm{logit} \, \lambda - \mathrm{up} \left( "
        r"\mathrm{softmax} \left( \frac{q(z_\lambda) \, q(z_{1-\lambda})^\top}{\sqrt{d'}} \right) "
        r"v(z_{1-\lambda}) \right) \right)",
        MASK,
        r"L = \mathrm{CE}(f(x), y) + \mathrm{MCE}(f(\tilde{x}); y_i, y_{\sigma(i)}, \lambda_i)",
        r"\text{mixer } (q, v): \; \mathrm{MCE}(f_k(\tilde{x}); y_i, y_{\sigma(i)}, \lambda) + "
        r"\gamma \max(|\lambda - \mathrm{mean} \, M| - \epsilon, 0)",
        r"\theta_k \leftarrow m \, \theta_k + (1 - m) \, \theta",
    ),
    "balanced_mixup": (
        r"\text{class of } \sigma(i) \sim \text{uniform over the classes}, \quad "
        r"\sigma(i) \sim \text{uniform over its samples}",
        LINEAR + r", \quad 1 - \lambda_i \sim \mathrm{Beta}(\alpha, 1)",
        LOSS,
    ),
    "c_mixup": (
        r"P(\sigma(i) = j) \propto \exp \left( -\frac{(y_i - y_j)^2}{2 h^2} \right)",
        LINEAR + r", \quad " + LINEAR_Y + r", \quad " + BETA,
        r"L_i = (f(\tilde{x}_i) - \tilde{y}_i)^2",
    ),
    "cutmix": (
        BETA + r", \quad M_i = 0 \text{ in a box of area } (1 - \lambda_i) H W "
        r"\text{ with a uniform centre, } 1 \text{ elsewhere}",
        MASK,
        LOSS,
    ),
    "decoupled": (
        r"\varphi^{i,j}(z) = \frac{\exp z_i}{\exp z_i + \sum_{c \notin \{i,j\}} \exp z_c}",
        r"\mathrm{DM(CE)} = \mathrm{MCE} + \eta \left[ w_a (-\log \varphi^{a,b}) + "
        r"w_b (-\log \varphi^{b,a}) \right]",
        r"w = (\lambda^{\mathrm{power}}, (1 - \lambda)^{\mathrm{power}}), \quad "
        r"\text{of both sides, of the heavier or of the lighter alone}",
    ),
    "decoupled_bce": (
        r"\hat{y} = h(\lambda) \cdot a + h(1 - \lambda) \cdot b, \quad "
        r"h(\lambda) = \min \left( 1, \left( \frac{\lambda}{t} \right)^k \right)",
        r"\mathrm{DM(BCE)} = \sum_c \mathrm{BCE}(\mathrm{sigmoid}(z_c), \hat{y}_c), \quad "
        r"\text{the mean over samples}",
    ),
    "deit_mix": (
        r"\text{with probability } \frac{1}{2}: \quad \lambda \sim \mathrm{Beta}(0.8, 0.8), \quad "
        r"\tilde{x}_i = \lambda x_i + (1 - \lambda) x_{\sigma(i)}",
        r"\text{else:} \quad \lambda \sim \mathrm{Beta}(1, 1), \quad "
        r"\tilde{x}_i = M \odot x_i + (1 - M) \odot x_{\sigma(i)}, \quad "
        r"\lambda \leftarrow \mathrm{mean}(M)",
        r"L_i = -\lambda \log p_i[y_i] - (1 - \lambda) \log p_i[y_{\sigma(i)}]",
    ),
    "distance_mixup": (
        r"d_{ij} = \| x_i - x_j \| \text{, or of features, in units of the batch’s root mean square}",
        r"P(\sigma(i) = j) \propto \exp \left( -\frac{d_{ij}^2}{2 h^2} \right)",
        LINEAR + r", \quad " + LINEAR_Y + r", \quad " + BETA,
    ),
    "erm": (r"L = \mathrm{CE}(f(x), y)",),
    "fmix": (
        r"Z(k) \sim \frac{\text{complex normal}}{|k|^\delta}, \quad "
        r"G = \mathrm{Re} \, F^{-1}(Z), \quad \delta = 3",
        r"M_i = 1 \text{ at the } \lambda_i H W \text{ positions where } G_i "
        r"\text{ is extreme, } 0 \text{ elsewhere}",
        MASK,
        LOSS,
    ),
    "gridmix": (
        r"\text{a grid of } n \times n \text{ cells}, \quad "
        r"M_i = 1 \text{ in a cell with probability } \lambda_i \text{, else } 0",
        MASK,
        LOSS,
    ),
    "guidedmix": (
        r"s_i = \text{the modulus of } x_i \text{’s spectral residual, blurred twice, or of the "
        r"loss’s gradient, blurred; summing to } 1",
        r"\sigma \text{: a cycle, greedy by greatest } \| s_i - s_{\sigma(i)} \|",
        r"M_i = \frac{\lambda s_i}{\lambda s_i + (1 - \lambda) s_{\sigma(i)}}, "
        r"\quad \lambda = \frac{1}{2}",
        MASK,
        LOSS,
    ),
    "infinite_class": (
        r"\tilde{w}_j = \lambda_j w_{a_j} + (1 - \lambda_j) w_{b_j}, \quad "
        r"\lambda \text{ the labels’}",
        r"S_{ij} = f_i \cdot \tilde{w}_j + \tilde{b}_j = \lambda_j z_i[a_j] + (1 - \lambda_j) z_i[b_j]",
        r"\mathrm{ICM} = \mathrm{CE}(S, \text{diagonal}) + \mathrm{CE}(S^\top, \text{diagonal})",
    ),
    "knn_mixup": (
        r"\sigma(i) \sim \text{uniform over the } k \text{ nearest of } x_i \text{ in the batch}",
        LINEAR + r", \quad " + LINEAR_Y + r", \quad " + BETA,
    ),
    "local_mixup": (
        r"d_i = \| x_i - x_{\sigma(i)} \|, \quad w_i = e^{-\mathrm{decay} \cdot d_i} "
        r"\text{ if } d_i \le \mathrm{limit} \text{, else } 0",
        LINEAR + r", \quad " + BETA,
        r"L = \frac{\sum_i w_i \left( \lambda_i \, \ell(f(\tilde{x}_i), y_i) + (1 - \lambda_i) \, "
        r"\ell(f(\tilde{x}_i), y_{\sigma(i)}) \right)}{\sum_i w_i}",
    ),
    "manifold_mixup": (
        r"k \sim \text{uniform over layers}, \quad " + BETA + r", \quad f = f_k \circ g_k",
        r"\tilde{h}_i = \lambda_i g_k(x_i) + (1 - \lambda_i) g_k(x_{\sigma(i)})",
        LOSS + r", \quad p_i = \mathrm{softmax}(f_k(\tilde{h}_i))",
    ),
    "maskmix": (
        r"\text{a grid of } n \text{ patches}, \quad M_i = 0 \text{ in } "
        r"\mathrm{round}((1 - \lambda_i) n) \text{ of them at random, } 1 \text{ elsewhere}",
        MASK,
        LOSS,
    ),
    "mit": (
        r"\lambda^1 \sim \mathrm{Beta}(\alpha, \alpha); \quad "
        r"\lambda^2 \sim \mathrm{Beta}(\alpha, \alpha) \text{, given that } "
        r"|\lambda^1 - \lambda^2| \ge \mathrm{margin} \text{ and } \frac{1}{2} "
        r"\text{ is between the two}",
        r"z^1 = f(\lambda^1 x_a + (1 - \lambda^1) x_b), \quad "
        r"z^2 = f(\lambda^2 x_a + (1 - \lambda^2) x_b)",
        r"\hat{z}_a = \frac{(1 - \lambda^2) z^1 - (1 - \lambda^1) z^2}{\lambda^1 - \lambda^2}, \quad "
        r"\hat{z}_b = \frac{\lambda^1 z^2 - \lambda^2 z^1}{\lambda^1 - \lambda^2}",
        r"L_i = \frac{1}{2} \left( \mathrm{CE}(\hat{z}_a, y_a) + \mathrm{CE}(\hat{z}_b, y_b) \right)",
    ),
    "mixup": (BETA, LINEAR, LOSS),
    "mixup_io": (
        LINEAR,
        r"L_i = -\log p_i[y_i] \text{ if } \lambda_i \ge \frac{1}{2} \text{, else } "
        r"-\log p_i[y_{\sigma(i)}]",
    ),
    "multi_mixup": (
        r"w_i \sim \mathrm{Dirichlet}(\alpha, \ldots, \alpha) \text{ over } k \text{ samples}, \quad "
        r"\sigma_1(i) = i, \quad \sigma_2, \ldots, \sigma_k \text{: random permutations}",
        r"\tilde{x}_i = \sum_j w_{ij} \, x_{\sigma_j(i)}",
        r"L_i = -\sum_j w_{ij} \log p_i[y_{\sigma_j(i)}]",
    ),
    "puzzlemix": (
        r"S_i = \left\| \frac{\partial \ell(f(x_i), y_i)}{\partial x_i} \right\| "
        r"\text{ by block, summing to } 1, \quad " + BETA,
        r"z_i = \mathrm{argmin} \sum_s \left( z_s S_{\sigma(i),s} + (1 - z_s) S_{i,s} \right) + "
        r"\beta' \sum_{s \sim t} (z_s - z_t)^2",
        r"\qquad + \beta' \gamma \sum_{s \sim t} d_{st}(z_s, z_t) - "
        r"\frac{\eta}{n^2} \sum_s \log \mathrm{prior}(z_s; \lambda_i)",
        r"\Pi_i = \mathrm{argmin} \sum_{st} \Pi_{st} (\xi C_{st} - z_t S_{i,s}) "
        r"\text{ over permutations}; \quad \Pi_{\sigma(i)} \text{ likewise with } 1 - z_i",
        r"\tilde{x}_i = z_i \odot \Pi_i^\top x_i + (1 - z_i) \odot \Pi_{\sigma(i)}^\top "
        r"x_{\sigma(i)}, \quad \lambda_i \leftarrow \mathrm{mean}(z_i)",
        LOSS,
    ),
    "quantile_mixup": (
        r"d_{ij} = \| f(x_i) - f(x_j) \|^2, \quad Q_q \text{: the quantile of } d_{ij} "
        r"\text{ over all } i \text{ and } j",
        r"\sigma(i) \sim \text{uniform over } \{ j : d_{ij} \le Q_q \} \quad "
        r"(\ge \text{ for side=“above”})",
        LINEAR + r", \quad " + BETA,
    ),
    "randomix": (
        r"\text{mixup, CutMix, ResizeMix or FMix with probability } \frac{1}{2}, \frac{1}{6}, "
        r"\frac{1}{6}, \frac{1}{6}, \quad \lambda \sim \mathrm{Beta}(\alpha, \alpha)",
        LOSS,
    ),
    "rankmixup": (
        LINEAR + r", \quad " + BETA + r", \quad z = f(x), \quad \tilde{z} = f(\tilde{x})",
        r"\mathrm{MRL}_i = \max(0, \max_c \tilde{z}_i[c] - \max_c z_i[c] + m)",
        r"L_i = \mathrm{CE}(z_i, y_i) + \mathrm{weight} \cdot \mathrm{MRL}_i",
    ),
    "rankmixup_ndcg": (
        r"p_1 \text{: confidence for } x_i; \quad p_2, \ldots, p_Q \text{: for } Q - 1 "
        r"\text{ mixes of it, in falling order of } \lambda_q",
        r"\mathrm{DCG} = \sum_q \frac{p_q}{\log_2(q + 1)}, \quad "
        r"\mathrm{IDCG} = \sum_q \frac{\lambda_q}{\log_2(q + 1)}, \quad \lambda_1 = 1",
        r"\mathrm{M\text{-}NDCG}_i = 1 - \min \left( \frac{\mathrm{DCG}}{\mathrm{IDCG}}, "
        r"\frac{\mathrm{IDCG}}{\mathrm{DCG}} \right)",
        r"L_i = \mathrm{CE}(f(x_i), y_i) + \mathrm{weight} \cdot \mathrm{M\text{-}NDCG}_i",
    ),
    "regmixup": (
        BETA + r", \quad \alpha \in [10, 20]",
        r"L = \mathrm{CE}(f(x), y) + \mathrm{weight} \cdot "
        r"\mathrm{MCE}(f(\tilde{x}), y, y_\sigma, \lambda), \quad "
        r"\text{over } 1 + \mathrm{weight} \text{ for combine=“mean”}",
    ),
    "remix": (
        r"n_a, n_b \text{: training samples of the two classes}",
        r"\lambda_y = \begin{cases} 0 & \frac{n_a}{n_b} \ge \kappa \text{ and } \lambda < t \\ "
        r"1 & \frac{n_a}{n_b} \le \frac{1}{\kappa} \text{ and } 1 - \lambda < t \\ "
        r"\lambda & \text{otherwise} \end{cases}",
        r"L_i = -\lambda_y \log p_i[y_i] - (1 - \lambda_y) \log p_i[y_{\sigma(i)}]",
    ),
    "resizemix": (
        r"s_i \sim U(0.1, 0.8), \quad \lambda_i = 1 - s_i^2",
        r"\tilde{x}_i = x_i \text{, with } x_{\sigma(i)} \text{ resized to } s_i H \times s_i W "
        r"\text{ pasted at a uniform place}, \quad \lambda_i \leftarrow 1 - \text{its area}",
        LOSS,
    ),
    "saliencymix": (
        r"c_i = \mathrm{argmax} \mathrm{saliency}(x_{\sigma(i)}), \quad M_i = 0 \text{ in a box of area } "
        r"(1 - \lambda_i) H W \text{ centred on } c_i, \; 1 \text{ elsewhere}",
        MASK,
        LOSS,
    ),
    "samix": (
        r"\hat{\lambda} = \frac{\frac{4}{3} \lambda^3 - 2 \lambda^2 + (k + 1) \lambda}"
        r"{k + \frac{1}{3}}, \quad z_\lambda = (1 + \hat{\lambda}) z_i, \quad "
        r"z_{1-\lambda} = (2 - \hat{\lambda}) z_{\sigma(i)}",
        r"M_i = \mathrm{sigmoid} \left( \mathrm{logit} \, \lambda - \mathrm{up} \left( "
        r"\mathrm{softmax} \left( \frac{q([z_\lambda, z_{1-\lambda}]) \, "
        r"k([z_\lambda, z_{1-\lambda}])^\top}{\sqrt{d'}} \right) v(z_{1-\lambda}) \right) \right)",
        r"L_\eta = -\lambda \log \frac{p_a}{p_a + p_b} - (1 - \lambda) \log \frac{p_b}{p_a + p_b} - "
        r"\eta \log(p_a + p_b)",
        r"\text{mixer: } L_\eta(f_k(\tilde{x})) + \gamma \left[ "
        r"\max(|\lambda - \mathrm{mean} \, M| - \epsilon, 0) - 2 \, \mathrm{Var} \, M \right]",
        r"L = \mathrm{CE}(f(x), y) + \mathrm{MCE}(f(\tilde{x}); y_i, y_{\sigma(i)}, \lambda_i), "
        r"\quad \lambda_i \leftarrow \mathrm{mean}(M_i)",
    ),
    "sk_mixup": (
        r"d_i = \| f(x_i) - f(x_{\sigma(i)}) \|^2, \quad "
        r"n_i = \frac{d_i}{\mathrm{mean}_j \, d_j}",
        r"\tau_i = \tau_{\mathrm{max}} \cdot "
        r"\exp \left( -\frac{n_i - 1}{2 \tau_{\mathrm{std}}^2} \right)",
        r"\lambda_i = I^{-1}(u_i; \tau_i, \tau_i), \quad u \sim \mathrm{Beta}(\alpha, \alpha) \qquad "
        r"(\alpha = 1: \; \lambda_i \sim \mathrm{Beta}(\tau_i, \tau_i))",
    ),
    "smoothmix": (
        r"\sigma_i \sim U \left( \frac{1}{4}, \frac{1}{2} \right), \quad "
        r"M_i = 1 - e^{-d^2 / 2 \sigma_i^2}, \quad "
        r"d \text{ the distance to a uniform centre, in sides}",
        r"\tilde{x}_i = M_i \odot x_i + (1 - M_i) \odot x_{\sigma(i)}, \quad "
        r"\lambda_i = \mathrm{mean}(M_i)",
        LOSS,
    ),
    "snapmix": (
        r"\lambda, \lambda' \sim \mathrm{Beta}(\alpha, \alpha), \quad \text{boxes } b \text{ of area "
        r"} 1 - \lambda \text{ in } x_i \text{ and } b' \text{ of area } 1 - \lambda' \text{ in } "
        r"x_{\sigma(i)}",
        r"\tilde{x}_i = x_i \text{ with } x_{\sigma(i)}[b'] \text{ resized into } b",
        r"\rho_a = 1 - \sum_b S(x_i), \quad \rho_b = \sum_{b'} S(x_{\sigma(i)}), \quad "
        r"S = \frac{\text{CAM of the sample’s class}}{\text{its sum}}",
        r"L = \frac{\sum_i \left( -\rho_a \log p_i[y_i] - \rho_b \log p_i[y_{\sigma(i)}] \right)}"
        r"{\sum_i (\rho_a + \rho_b)}",
    ),
    "tokenmix": (
        r"M_i = 0 \text{ on blocks of tokens, } (1 - \lambda_i) h w \text{ of them in all, } 1 "
        r"\text{ elsewhere}",
        r"\tilde{x}_i = M_i \odot x_i + (1 - M_i) \odot x_{\sigma(i)}",
        r"A_i = \text{attention of the class token to the patches of } x_i \text{, summing to } 1",
        r"s_a = \sum_p A_{ip} M_{ip}, \quad s_b = \sum_p A_{\sigma(i)p} (1 - M_{ip})",
        r"L = \frac{\sum_i \left( -s_a \log p_i[y_i] - s_b \log p_i[y_{\sigma(i)}] \right)}"
        r"{\sum_i (s_a + s_b)}",
    ),
    "transmix": (
        r"\tilde{x}_i = M_i \odot x_i + (1 - M_i) \odot x_{\sigma(i)}, \quad M \text{ of CutMix}",
        r"A_i = \text{attention of the class token to the patches of } \tilde{x}_i \text{, summing "
        r"to } 1 \text{: last block, mean of heads}",
        r"\lambda_i = \sum_p A_{ip} \downarrow\!(M_i)_p",
        LOSS,
    ),
    "unimix": (
        r"n_c \text{: training samples of class } c",
        r"P(\sigma(i) = j) \propto n_{y_j}^\tau",
        r"\xi_i = \frac{n_b}{n_a + n_b}, \quad u_i \sim \mathrm{Beta}(\alpha, \alpha), \quad "
        r"\lambda_i = u_i + \xi_i \text{, less } 1 \text{ if it exceeds } 1",
        LOSS,
    ),
    "zeta_mixup": (
        r"w_j = \frac{j^{-\gamma}}{\sum_m m^{-\gamma}}, \quad \sigma_1(i) = i, \quad "
        r"\sigma_2, \ldots, \sigma_k \text{: random permutations}",
        r"\tilde{x}_i = \sum_j w_j \, x_{\sigma_j(i)}",
        r"L_i = -\sum_j w_j \log p_i[y_{\sigma_j(i)}]",
    ),
}


WORD = re.compile(r'<mrow>((?:<mi mathvariant="normal">[^<]</mi>)+)</mrow>')


def _word(found: re.Match[str]) -> str:
    """Return an upright word as one identifier, not as letters side by side."""
    return f"<mi>{re.sub('<[^>]+>', '', found[1])}</mi>"


def mathml(name: str) -> str | None:
    """Return a method's equations as MathML, a line each; None where there is no LaTeX of it."""
    lines = EQUATIONS.get(name)
    if lines is None:
        return None
    rows = "\n".join(f"<p>{''.join(map(_typeset, _pieces(line)))}</p>" for line in lines)
    return f'<div class="equations">\n{rows}\n</div>'


def _pieces(line: str) -> list[str]:
    """Return the pieces of a line between its wide spaces: there it may break on a narrow page."""
    return [piece for piece in re.split(r"\\q?quad", line) if piece.strip()]


def _typeset(piece: str) -> str:
    drawn = convert(r"\displaystyle " + piece.strip())
    # "Distributed as" is a relation, with room around it.
    return WORD.sub(_word, drawn.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"))
