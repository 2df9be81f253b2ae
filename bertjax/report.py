"""Tells in one self-contained HTML page what a pretraining and its fine-tunings did.

example:
  python -m bertjax.report --pretrain runs/tiny --finetune runs/sst2 runs/sst2-scratch \\
      --output runs/report.html
"""

from __future__ import annotations

import argparse
import sys

from bertjax import errors
from bertjax.command_line import new_parser
from bertjax.files import storage
from bertjax.files.whole_file import write_whole
from bertjax.reporting import page, report_text, results
from bertjax.reporting.report_charts import pretraining_charts, task_charts


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("report", __doc__)
    add = parser.add_argument
    add("--pretrain", type=storage.path, required=True, help="folder of a pretraining run")
    add(
        "--finetune",
        type=storage.path,
        nargs="*",
        default=[],
        metavar="RUN",
        help="folders of finished fine-tunings or sweeps of one task; the first gives predictions",
    )
    add("--fill", type=storage.path, help="JSON file that bertjax.fill --output wrote")
    add("--times", type=storage.path, help="lines of name, tab, seconds: where the time went")
    add("--title", default="What this BERT learnt")
    add("--output", type=storage.path, required=True, help="HTML file to write")
    return parser.parse_args(argv)


def render(flags: argparse.Namespace) -> str:
    """The page as a string.

    Raises:
      UserError: an input is missing or unfinished; it is named.
    """
    run = results.read_pretraining(flags.pretrain)
    runs = results.read_finetunings(flags.finetune)
    return page.render(
        "report.html.j2",
        title=flags.title,
        subtitle=f"{run.run} · bertjax {run.manifest.bertjax_version}",
        story=report_text.pretraining_story(run) + report_text.finetuning_story(runs),
        tiles=report_text.tiles(run, runs),
        pretraining_charts=pretraining_charts(run),
        tasks=report_text.task_table(runs),
        task_charts=task_charts(runs) if runs else [],
        samples=report_text.samples(runs[0]) if runs else [],
        samples_note=report_text.samples_note(runs[0]) if runs else "",
        fillings=report_text.fillings(flags.fill),
        corpus=report_text.corpus_facts(run.manifest),
        times=report_text.time_bars(results.read_times(flags.times)) if flags.times else [],
        next_steps=report_text.next_steps(run.run),
    )


def main() -> None:
    flags = parse_arguments()
    drawn = render(flags)
    write_whole(flags.output, drawn.encode())
    print(f"wrote {flags.output} ({len(drawn) / 1000:.0f} kB): open it in a browser")


if __name__ == "__main__":
    sys.exit(errors.run(main))
