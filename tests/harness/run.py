"""Set many processes on one database, kill them, and say what an audit finds afterwards.

    python tests/harness/run.py --database sqlite|postgresql [--seconds 60] [--seed 1]

On PostgreSQL the server is one of its own, which is crashed every now and then, and at the end a
replica succeeds its primary. The exit code is 1 where anything was found. The same seed gives
everybody the same chances again; who comes first is the machine's affair.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from auditor import verify
from clusters import server
from contention import redeem, use_keys
from databases import Database, SqliteDatabase
from failover import fail_over
from killing import kill

from tbpay import database, migrations


def main() -> int:
    options = argparse.ArgumentParser(description="Work on a database, kill, audit.")
    options.add_argument("--database", choices=["sqlite", "postgresql"], required=True)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=1)
    args = options.parse_args()
    print(f"{args.database}, seed {args.seed}")
    findings: list[object] = []
    with _grounds(args.database) as (grounds, crash):
        ground = next(grounds)
        killing = kill(ground, seconds=args.seconds, least=200, seed=args.seed, crash=crash)
        findings += [*killing.findings, *killing.bad_reads]
        print(f"killing   {killing}", flush=True)
        code, said = verify(ground)
        findings += [] if code == 0 else [said]
        print(f"verify    exit code {code}", flush=True)
        redeeming = redeem(next(grounds), args.seed, attempts=300, max_uses=100)
        findings += redeeming.findings
        print(f"coupon    {redeeming}", flush=True)
        keying = use_keys(next(grounds), args.seed, keys=500)
        findings += keying.findings
        print(f"keys      {keying}", flush=True)
    if args.database == "postgresql":
        failover = fail_over()
        findings += failover.findings
        print(f"failover  {failover}")
    for finding in findings:
        print(f"  {finding}")
    return 1 if findings else 0


@contextmanager
def _grounds(
    dialect: str,
) -> Iterator[tuple[Iterator[Database], Callable[[], None] | None]]:
    """Answer new databases, one after the other, and how their server crashes if they have one."""
    with ExitStack() as stack:
        if dialect == "sqlite":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield _chosen(SqliteDatabase(folder / f"{number}.db") for number in count(1)), None
        else:
            own = stack.enter_context(server())
            yield _chosen(own.new_database() for _ in count(1)), own.crash


def _chosen(databases: Iterator[Database]) -> Iterator[Database]:
    for made in databases:
        database.reset()
        database.configure(made.url)
        migrations.upgrade()
        yield made


if __name__ == "__main__":
    sys.exit(main())
