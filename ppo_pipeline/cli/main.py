"""The command `ppo-pipeline`. Subcommands are imported when they are called, so that --help starts at once."""

from importlib import import_module

import click

from ..project.faults import PlainGroup

COMMANDS = {
    "init": ("ppo_pipeline.cli.init", "init", "Make a new project folder with prompts and a reward of your own."),
    "preset": ("ppo_pipeline.cli.preset", "preset", "List the settings in params/, or make some of them params.yaml."),
    "params": ("ppo_pipeline.cli.params", "params", "Bring an older params.yaml to the installed version."),
    "rounds": ("ppo_pipeline.cli.rounds", "rounds", "List, append, branch and remove training rounds."),
    "score": ("ppo_pipeline.cli.score", "score", "Try the reward on responses of your own, before any training."),
    "status": ("ppo_pipeline.cli.status", "status", "Show the rounds, and what `dvc repro` would run, and why."),
    "memory": ("ppo_pipeline.cli.memory", "memory", "Print what memory each stage needs by the settings in force."),
    "best": ("ppo_pipeline.cli.best", "best", "Name the round of the best held-out score, and what it is told from."),
    "show": ("ppo_pipeline.cli.show", "show", "Print rows of a table, or one sample in full."),
    "diff": ("ppo_pipeline.cli.diff", "diff", "Compare two rounds: settings, metrics, answers side by side."),
    "seeds": (
        "ppo_pipeline.cli.seeds",
        "seeds",
        "Run the settings with several seeds; median, quartiles, range.",
    ),
    "report": ("ppo_pipeline.cli.report", "report", "Write the run as one HTML file: curves, samples, tokens."),
    "pairs": ("ppo_pipeline.cli.pairs", "pairs", "Make pairs of answers out of rounds' samples, by a reward."),
    "track": ("ppo_pipeline.cli.track", "track", "Send a run's numbers to TensorBoard, MLflow, W&B or trackio."),
    "judge": ("ppo_pipeline.cli.judge", "judge", "Choose between two answers yourself; pairs for a reward model."),
    "chat": ("ppo_pipeline.cli.chat", "chat", "Answer prompts with a round's policy beside the base model."),
    "card": ("ppo_pipeline.cli.card", "card", "Write a round's model card: curve, evaluation, how to reproduce it."),
    "push": ("ppo_pipeline.cli.push", "push", "Upload a round's model or adapter, with its card, to a model hub."),
    "export": ("ppo_pipeline.cli.export", "export", "Write a round's policy as a transformers model, or an adapter."),
}


class LazyGroup(PlainGroup):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup)
@click.version_option(package_name="ppo-pipeline")
def main() -> None:
    """PPO fine-tuning of language models as a DVC pipeline. Run all but init in the project's top folder."""


if __name__ == "__main__":
    main()
