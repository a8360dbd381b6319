"""How the answers of several methods compose: the parts of a composition, before they are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from mixwell import coefficient, interpolation, labels, pairing, tasks
from mixwell.errors import InputError, suggest
from mixwell.methods.recipe import Recipe, Term
from mixwell.methods.slots import (
    QUESTIONS,
    CombinedSettings,
    RecipeSettings,
    Slot,
    TermSettings,
    check_part,
    named_part,
)
from mixwell.methods.spec import Answer, Spec, find_setups, specs_of
from mixwell.tasks import Task

__all__ = ["Composition", "common_tasks"]

_DEFAULTS: dict[str, type[nn.Module]] = {
    "pairing": pairing.Shuffle,
    "coefficient": coefficient.Beta,
    "interpolation": interpolation.Linear,
    "labels": labels.Soft,
}


class Composition:
    """The parts of one method or several, with their arguments, before they are built.

    Args:
        name: of the methods, joined by "+".
        task: of :func:`create <mixwell.create>`; the set-up's or the methods' usual one without.
        chosen: question to the part that the caller gave, an object or a name.
        published: the name of the set-ups that settle what the caller doesn't.
    """

    def __init__(
        self,
        name: str,
        task: str | Task | None = None,
        chosen: Mapping[str, Any] | None = None,
        published: Any = None,
    ) -> None:
        self.specs = specs_of(name)
        self.name = "+".join(spec.name for spec in self.specs)
        self.setups = [] if published is None else find_setups(self.specs, published)
        self.published = published
        self.task = _task(self.specs, self._published_task(task))
        self.objects: dict[str, nn.Module] = {}
        self.slots: dict[str, Slot] = {}
        self.settled: dict[str, Any] = {}
        self.mixes = any(spec.mixes for spec in self.specs)
        self.clean = not self.mixes or any(spec.clean for spec in self.specs)
        self.weighted = next((spec for spec in self.specs if spec.clean), None)
        self.beside = [spec for spec in self.specs if spec.beside]
        self._fill(dict(chosen or {}))
        self._settle()

    # ------------------------------------------------------------------------------------ questions

    def _fill(self, chosen: dict[str, Any]) -> None:
        """Give each question its part, or the slot in which it will be built."""
        usual: dict[str, Any] = {}
        if not self.task.has_classes:
            for spec in self.specs:
                usual.update(spec.in_regression)
        for question in QUESTIONS if self.mixes else ("loss",):
            value = chosen.get(question)
            if isinstance(value, str):
                answer = Answer(named_part(question, value))
                self.slots[question] = Slot.of((question,), answer, usual, settled=True)
            elif value is not None:
                check_part(question, value)
                self.objects[question] = value
            else:
                owners, answer = self._answer(question)
                answer = self._published_part(question, owners) or answer
                self.slots[question] = Slot.of((question, *owners), answer, usual)
        unused = [q for q in QUESTIONS if q in chosen and q not in (*self.slots, *self.objects)]
        if unused:
            raise InputError(f"{self.name} mixes no samples: {unused[0]} has nothing to act on")
        self._fill_settings()

    def _fill_settings(self) -> None:
        """Add what belongs to the terms and not to their parts."""
        if self.mixes:
            rarest = min(self.specs, key=lambda spec: spec.p)
            answer = Answer(RecipeSettings, p=rarest.p, per=rarest.per)
            self.slots["recipe"] = Slot.of(("recipe",), answer, {})
            if self.weighted:
                names = ("term", self.weighted.name)
                weight, combine = self.weighted.weight, self.weighted.combine
                part = CombinedSettings if combine else TermSettings
                answer = Answer(part, weight=weight, combine=combine)
                self.slots["term"] = Slot.of(names, answer, {})
        if self.mixes and self.clean:
            answer = Answer(self.task.loss)
            self.slots["clean"] = Slot.of(("clean",), answer, {})
        for spec in self.beside:
            parts = {
                **spec.beside,
                "recipe": Answer(RecipeSettings),
                "term": Answer(TermSettings, weight=spec.weight),
            }
            for question, answer in parts.items():
                self.slots[f"{spec.name}.{question}"] = Slot.of((spec.name,), answer, {})

    def _answer(self, question: str) -> tuple[tuple[str, ...], Answer]:
        """Return the answer to a question and who gives it, if anybody does."""
        owners = [spec for spec in self.specs if question in spec.answers]
        if len(owners) > 1:
            first, second = owners[:2]
            raise InputError(
                f"{self.name!r} makes no sense: {first.name} and {second.name} both decide "
                f"{QUESTIONS[question][0]} ({question}: {first.answers[question].part.__name__} "
                f"against {second.answers[question].part.__name__}); keep one of them"
            )
        if owners:
            return (owners[0].name,), owners[0].answers[question]
        for spec in self.specs:
            if question in spec.suggests:
                return (spec.name,), spec.suggests[question]
        part = self.task.loss if question == "loss" else _DEFAULTS[question]
        return (), Answer(part)

    # ------------------------------------------------------------------------------------- set-ups

    def _published_task(self, task: str | Task | None) -> str | Task | None:
        wanted = None if task is None else tasks.get(task)
        for spec, setup in self.setups:
            if setup.task is None:
                continue
            if wanted is not None and wanted.name != setup.task:
                raise InputError(
                    f"published={self.published!r} of {spec.name} is for task={setup.task!r}, "
                    f"not for task={wanted.name!r}"
                )
            wanted = tasks.get(setup.task)
        return wanted

    def _published_part(self, question: str, owners: tuple[str, ...]) -> Answer | None:
        """Return the part that a set-up has for a question that its method decides, or none."""
        for speakers, settings in self._said():
            if question in settings and (not owners or owners[0] in speakers):
                self.settled[question] = settings[question]
                return Answer(named_part(question, settings[question]))
        return None

    def _settle(self) -> None:
        """Give the parts what the set-ups say of them; what is said first stands."""
        done: dict[tuple[str, str], Any] = {}
        for owners, settings in self._said():
            for full, value in settings.items():
                part, _, argument = full.rpartition("__")
                if full == "feature_mode":
                    self.settled.setdefault(full, value)
                for key, slot in self.slots.items():
                    if (
                        argument in slot.known
                        and slot.owned_by(*owners)
                        and (not part or part in slot.names)
                    ):
                        done.setdefault((key, argument), value)
        if ("recipe", "per") in done and self._per_is_idle(done):
            del done["recipe", "per"]
        for (key, argument), value in done.items():
            self.slots[key].given[argument] = value
        self.settled.update(self._addressed(done))

    def _per_is_idle(self, done: Mapping[tuple[str, str], Any]) -> bool:
        """Whether "per" would say nothing but how it is drawn whether to mix, and all are mixed."""
        p = done.get(("recipe", "p"), self.slots["recipe"].given["p"])
        return p == 1 and [key for key, argument in done if argument == "per"] == ["recipe"]

    def _said(self) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
        """Yield whose parts are spoken of, and what is said: of pairs of methods first."""
        names = [spec.name for spec in self.specs]
        for spec, setup in self.setups:
            for other, settings in setup.beside.items():
                if other in names:
                    yield (spec.name, other), settings
        for spec, setup in self.setups:
            yield (spec.name,), setup.settings

    def _addressed(self, done: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
        """Return what was settled as arguments of create: by the part's name where need be."""
        addressed = {}
        for (key, argument), value in done.items():
            takers = [other for other, slot in self.slots.items() if argument in slot.known]
            alike = all(done.get((other, argument), self) == value for other in takers)
            name = argument if alike else f"{self.slots[key].names[0]}__{argument}"
            addressed[name] = value
        return addressed

    # ----------------------------------------------------------------------------------- arguments

    def give(self, arguments: Mapping[str, Any]) -> None:
        """Hand each argument to every part that knows it, or to the one it names."""
        for full, value in arguments.items():
            part, _, argument = full.rpartition("__")
            slots = [
                slot
                for slot in self.slots.values()
                if argument in slot.known and (not part or part in slot.names)
            ]
            if not slots:
                known = sorted({name for slot in self.slots.values() for name in slot.known})
                raise InputError(
                    f"{self.name} has no argument {full!r}{suggest(argument, known)}; "
                    f"it knows {', '.join(known)}"
                )
            for slot in slots:
                slot.given[argument] = value
            # Where λ is drawn for each pair, "per" would only say how p is drawn.
            settings_alone = slots == [self.slots.get("recipe")] and slots[0].given["p"] == 1
            by_batch = argument == "per" and isinstance(value, str) and value == "batch"
            if by_batch and settings_alone and "p" not in arguments:
                raise InputError(
                    f"{self.name}: per='batch' has nothing to act on: λ is drawn for each pair"
                )

    def build(self) -> list[Term]:
        """Return the terms of the method's loss."""
        terms = []
        built = {key: slot.build() for key, slot in self.slots.items()}
        built.update(self.objects)
        clean, mixed = built["term"].weights if "term" in built else (1.0, 1.0)
        if self.clean:
            loss = built["clean" if self.mixes else "loss"]
            terms.append(Term(loss, weight=clean, name="clean"))
        if self.mixes:
            terms.append(Term(built["loss"], _recipe(built, ""), weight=mixed, name="mixed"))
        for spec in self.beside:
            prefix = f"{spec.name}."
            _, weight = built[prefix + "term"].weights
            recipe = _recipe(built, prefix)
            terms.append(Term(built[prefix + "loss"], recipe, weight=weight, name=spec.name))
        return terms


def _recipe(built: Mapping[str, Any], prefix: str) -> Recipe:
    parts = {q: built[prefix + q] for q in QUESTIONS if q != "loss"}
    return Recipe(**parts, **built[prefix + "recipe"].settings)


# ------------------------------------------------------------------------------------------- tasks


def common_tasks(specs: list[Spec]) -> list[str]:
    """Return the tasks of all, in the order of the method that is for the fewest."""
    narrow = min(specs, key=lambda spec: len(spec.tasks))
    return [task for task in narrow.tasks if all(task in spec.tasks for spec in specs)]


def _task(specs: list[Spec], task: str | Task | None) -> Task:
    wanted = None if task is None else tasks.get(task)
    common = common_tasks(specs)
    if not common or (wanted is not None and wanted.name not in common):
        scopes = ", ".join(f"{spec.name} is for {' and '.join(spec.tasks)}" for spec in specs)
        asked = "" if wanted is None else f" for task={wanted.name!r}"
        name = "+".join(spec.name for spec in specs)
        raise InputError(f"{name!r} makes no sense{asked}: {scopes}")
    return wanted or tasks.get(common[0])
