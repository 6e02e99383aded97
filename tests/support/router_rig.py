"""A router between links that only remember what was sent."""

from __future__ import annotations

from deployments.messages import (
    Commit,
    Commits,
    Generate,
    Introduce,
    Open,
    PolicyName,
    Proposal,
    ProposalItem,
    SamplingParams,
    Verdict,
    VerdictItem,
    Verify,
    VerifyItem,
)
from deployments.router.service import RouterService, RouterSettings
from deployments.timing import StepShape
from tests.support.fake_link import FakeLink

PROMPT = (5, 6, 7)


class Rig:
    """A router with one ingress, two verifiers and two drafters, and a clock that stands still."""

    def __init__(
        self, *, num_verifiers: int = 1, num_drafters: int = 1, policy: PolicyName = "constant", **settings: object
    ) -> None:
        self.now_s = 100.0
        self.router = RouterService(
            RouterSettings(policy=policy, **settings),
            instance=3,
            clock=lambda: self.now_s,
        )
        self.ingress = FakeLink("ingress-0", "ingress")
        self.verifiers = [FakeLink(f"verifier-{i}", "verifier") for i in range(num_verifiers)]
        self.drafters = [FakeLink(f"drafter-{i}", "drafter") for i in range(num_drafters)]
        for link in (self.ingress, *self.verifiers, *self.drafters):
            self.router.link_opened(link)
        for link in self.drafters:
            self.router.received(link, Introduce(kind="mtp"))

    def generate(self, request: str = "r0", **changes: object) -> None:
        fields = {"tokens": PROMPT, "num_prompt_tokens": 3, "max_context_tokens": 40, "params": SamplingParams()}
        self.router.received(self.ingress, Generate(request=request, **{**fields, **changes}))

    def verdict(self, asked: Open | VerifyItem, num_accepted: int, next_token: int, **changes: object) -> None:
        self.verdicts([self.answer(asked, num_accepted, next_token, **changes)])

    def answer(self, asked: Open | VerifyItem, num_accepted: int, next_token: int, **changes: object) -> VerdictItem:
        context_len = len(asked.tokens) if isinstance(asked, Open) else asked.context_len
        fields = {"has_go_ahead": asked.lookahead > 0, "context_len": context_len, "epoch": asked.epoch}
        fields["num_drafted"] = len(asked.tokens) if isinstance(asked, VerifyItem) else 0
        fields.update(changes)
        return VerdictItem(session=asked.session, num_accepted=num_accepted, next_token=next_token, **fields)

    def verdicts(self, items: list[VerdictItem], verifier: int = 0) -> None:
        num_tokens = sum(1 + item.num_drafted for item in items)
        shape = StepShape(num_sequences=len(items), num_tokens=num_tokens, num_context_tokens=10 * len(items))
        verdict = Verdict(items=tuple(items), step_ms=5.0, shape=shape)
        self.router.received(self.verifiers[verifier], verdict)

    def propose(self, asked: Open | VerifyItem, context_len: int, tokens: tuple[int, ...], drafter: int = 0) -> None:
        item = ProposalItem(session=asked.session, epoch=asked.epoch, context_len=context_len, tokens=tokens)
        self.router.received(self.drafters[drafter], Proposal(items=(item,), draft_ms=2.0))

    def opened(self, verifier: int = 0) -> Open:
        return self.verifiers[verifier].take_one(Open)

    def asked(self, verifier: int = 0) -> VerifyItem:
        (item,) = self.verifiers[verifier].take_one(Verify).items
        return item

    def commit(self) -> Commit:
        (item,) = self.ingress.take_one(Commits).items
        return item

    def tick(self, seconds: float) -> None:
        """Let time pass and deadlines strike, as `run` does."""
        self.now_s += seconds
        self.router.check_deadlines()
