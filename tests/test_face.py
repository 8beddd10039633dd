import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tbpay
from tbpay import models, stores

ROOT = Path(__file__).parents[1]
HEAVY = ("sqlalchemy", "alembic", "phonenumbers", "typer", "rich")

# The contract's own words.
SIGNATURES = {
    "OrderStore.create": "account_id, order_type, amount_cents, *, code=None,"
    " stripe_session_id=None, stripe_payment_intent_id=None, key=None -> Order",
    "OrderStore.get_by_id": "order_id -> Order | None",
    "OrderStore.get_by_stripe_session": "session_id -> Order | None",
    "OrderStore.get_by_account_id": "account_id -> list[Order]",
    "OrderStore.attach_session": "order_id, session_id -> Order",
    "OrderStore.complete": "order_id, *, payment_intent_id=None -> Order",
    "OrderStore.fail": "order_id -> Order",
    "OrderStore.refund": "order_id, *, amount_cents=None, policy=models.RefundPolicy.REFUSE,"
    " stripe_refund_id=None, reason=None, key=None -> Order",
    "OrderStore.update_status": "order_id, status, *, stripe_payment_intent_id=None -> Order",
    "BalanceStore.get_or_create": "account_id -> AccountBalance",
    "BalanceStore.get_balance": "account_id -> int",
    "BalanceStore.add_credits": "account_id, amount_cents, description, *, order_id=None,"
    " key=None -> Transaction",
    "BalanceStore.deduct": "account_id, amount_cents, description, *, order_id=None, key=None,"
    " allow_negative=False -> Transaction",
    "BalanceStore.record_transaction": "account_id, transaction_type, amount_cents, description,"
    " *, order_id=None, key=None, allow_negative=False -> Transaction",
    "DiscountCodeStore.create": "code, discount_type, discount_value, *, max_uses=None,"
    " stripe_coupon_id=None, starts_at=None, ends_at=None, per_account=None,"
    " min_amount_cents=None -> DiscountCode",
    "DiscountCodeStore.get_by_code": "code -> DiscountCode | None",
    "DiscountCodeStore.increment_uses": "code, *, order_id=None -> DiscountCode",
    "DiscountCodeStore.validate": "code, *, amount_cents=None, account_id=None -> DiscountCode",
    "AccountStore.create": "email=None -> Account",
    "AccountStore.get_by_id": "id -> Account | None",
    "AccountStore.get_by_email": "email -> Account | None",
    "AccountStore.set_stripe_customer": "account_id, customer_id -> Account",
}


def names_for_type_checkers() -> list[str]:
    tree = ast.parse(Path(tbpay.__file__).read_text(encoding="utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return [
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def run_python(program: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout.strip()


def loaded_by(program: str) -> list[str]:
    listing = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    return run_python(f"{program}; {listing}").split()


def test_type_checkers_see_the_names_that_there_are() -> None:
    seen = names_for_type_checkers()

    assert len(set(seen)) == len(seen)
    assert sorted([*seen, "__version__"]) == sorted(tbpay.__all__)
    assert dir(tbpay) == sorted(tbpay.__all__)


@pytest.mark.parametrize("name", tbpay.__all__)
def test_every_name_is_there_and_is_what_its_module_says(name: str) -> None:
    value = getattr(tbpay, name)

    assert value is getattr(tbpay, name)
    if name != "database" and getattr(value, "__module__", "").startswith("tbpay."):
        assert value is getattr(import_module(value.__module__), name)


def test_all_of_it_can_be_imported_at_once() -> None:
    assert run_python("from tbpay import *; print(order_store, quote, Order, database)")


def test_another_name_is_missed_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'tbpay' has no attribute 'nothing'"):
        tbpay.nothing  # noqa: B018
    assert not hasattr(tbpay, "sqlalchemy")


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", tbpay.__version__)


def test_importing_tbpay_loads_next_to_nothing() -> None:
    assert loaded_by("import tbpay") == []
    assert run_python(
        "import sys; before = set(sys.modules); import tbpay;"
        "print(*sorted(name for name in set(sys.modules) - before if 'tbpay' in name))"
    ).split() == ["tbpay"]


def test_prices_need_no_database() -> None:
    assert loaded_by("from tbpay import quote, get_sms_cost; get_sms_cost('GB')") == []
    assert loaded_by("from tbpay import quote; quote('+447700900123')") == ["phonenumbers"]


def test_the_vocabulary_needs_no_library() -> None:
    assert loaded_by("from tbpay import Order, OrderStatus, Page; import tbpay.errors") == []


def test_the_stores_load_neither_a_terminal_nor_the_migrations() -> None:
    assert loaded_by("from tbpay import order_store, database; database.configure") == [
        "sqlalchemy"
    ]


def test_the_database_is_a_module_of_doors() -> None:
    same = "print(unit_of_work is database.unit_of_work)"

    assert run_python(f"from tbpay import database, unit_of_work; {same}") == "True"
    assert run_python("import tbpay; print(tbpay.database.__name__)") == "tbpay.database"


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_store_has_the_methods_of_the_contract(name: str) -> None:
    store, method = name.split(".")
    parameters, answer = SIGNATURES[name].split(" -> ")
    expected = inspect.signature(eval(f"lambda self, {parameters}: None"))  # noqa: S307

    found = inspect.signature(getattr(getattr(stores, store), method))

    bare = [it.replace(annotation=it.empty) for it in found.parameters.values()]
    assert bare == list(expected.parameters.values())
    assert found.return_annotation == eval(answer, vars(models))  # noqa: S307


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("account_store", "AccountStore"),
        ("balance_store", "BalanceStore"),
        ("discount_code_store", "DiscountCodeStore"),
        ("order_store", "OrderStore"),
    ],
)
def test_the_stores_are_singletons(name: str, kind: str) -> None:
    assert type(getattr(tbpay, name)) is getattr(tbpay, kind)


@pytest.mark.parametrize(
    "store", [stores.OrderStore, stores.BalanceStore, stores.DiscountCodeStore, stores.AccountStore]
)
def test_no_method_hides_the_list_of_python(store: type) -> None:
    public = [name for name in vars(store) if not name.startswith("_")]

    assert "list" not in public
    assert all(inspect.getdoc(getattr(store, name)) for name in public)
