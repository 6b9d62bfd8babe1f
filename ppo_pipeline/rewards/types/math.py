"""Rewards for a mathematical answer, compared by what it means."""

from typing import Literal

from pydantic import Field

from ...observe.progress import result
from ...resume.snapshots import Snapshots
from ...settings.sections import Count
from ..component import Component, Finite
from ..samples import Samples


class MathComponent(Component):
    """A reward for a response whose boxed or last expression equals the prompt's answer, by math-verify."""

    type: Literal["math"]
    column: str = Field(
        description="Prompt column of the answers, LaTeX or plain, alone or at a solution's end; of a list any counts",
        min_length=1,
    )
    hit: Finite = Field(description="Reward where they are equal")
    miss: Finite = Field(description="Reward where they are not, or there is no expression")
    cpu_seconds: Count = Field(
        description="What takes more computing than this to read or to compare is a miss, such as 9^9^9^9; computing, "
        "and not waiting, so that a busy machine gives the same rewards"
    )

    def score(self, samples: Samples, snapshots: Snapshots | None = None) -> list[float]:
        """Return `hit` or `miss` of each response.

        Of the response the last boxed expression counts (boxes with a few words between them are one set), else what
        follows "the final answer is", else the last LaTeX or plain expression, as math-verify finds them; equal is what
        its `verify` finds equal, symbolically or to 6 decimals. Raises PipelineError where the library is missing, or
        a prompt has no answer that it can read.
        """
        from ..expressions import Expressions

        expressions = Expressions(self.name, self.cpu_seconds)
        answers = expressions.of_column(samples, self.column, "sample")
        rewards = [
            self.hit if expressions.equal(wanted, text) else self.miss
            for wanted, text in zip(answers, samples.responses, strict=True)
        ]
        if expressions.given_up:
            result(
                f"reward '{self.name}'",
                f"{expressions.given_up} of {len(samples)} responses took more than cpu_seconds",
            )
        return rewards

    def check(self, prompts: Samples) -> None:
        """Raise PipelineError as `score` does, with the prompt named."""
        from ..expressions import Expressions

        Expressions(self.name, self.cpu_seconds).of_column(prompts, self.column, "prompt")

    def answer_column(self) -> str:
        """Return `column`."""
        return self.column

    def vote(self, response: str) -> str:
        """Return a response's expression, a number as decimals; the normalised response where there is none."""
        from ..expressions import Expressions

        return Expressions(self.name, self.cpu_seconds).shown(response) or super().vote(response)

    def reads_policy_view(self) -> bool:
        """Tell that this reads texts alone."""
        return False
