"""tbpay: orders, balances, discount codes and prices of a prepaid-SMS business.

``from tbpay import …`` works for every name of ``__all__``. A name's module is imported when the
name is first asked for, so that ``import tbpay`` itself costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbpay import database
    from tbpay.database import atomically, configure, snapshot, unit_of_work
    from tbpay.models import (
        Account,
        AccountBalance,
        AuditEntry,
        CountrySMSCost,
        DiscountCode,
        DiscountType,
        Order,
        OrderStatus,
        OrderType,
        Page,
        Transaction,
        TransactionType,
    )
    from tbpay.sms_pricing import (
        MARGIN_PERCENT,
        SMS_COSTS_BY_COUNTRY,
        InvalidPhoneError,
        Quote,
        calculate_sms_cost_cents,
        get_country_from_phone,
        get_segments_per_topup,
        get_sms_cost,
        quote,
    )
    from tbpay.stores import (
        AccountStore,
        BalanceStore,
        DiscountCodeStore,
        OrderStore,
        account_store,
        balance_store,
        discount_code_store,
        order_store,
    )

__version__ = "0.1.0"

_NAMES = {
    "tbpay.database": ("atomically", "configure", "snapshot", "unit_of_work"),
    "tbpay.models": (
        "Account",
        "AccountBalance",
        "AuditEntry",
        "CountrySMSCost",
        "DiscountCode",
        "DiscountType",
        "Order",
        "OrderStatus",
        "OrderType",
        "Page",
        "Transaction",
        "TransactionType",
    ),
    "tbpay.sms_pricing": (
        "MARGIN_PERCENT",
        "SMS_COSTS_BY_COUNTRY",
        "InvalidPhoneError",
        "Quote",
        "calculate_sms_cost_cents",
        "get_country_from_phone",
        "get_segments_per_topup",
        "get_sms_cost",
        "quote",
    ),
    "tbpay.stores": (
        "AccountStore",
        "BalanceStore",
        "DiscountCodeStore",
        "OrderStore",
        "account_store",
        "balance_store",
        "discount_code_store",
        "order_store",
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "__version__",
    "database",
    *_MODULE_OF,
]


def __getattr__(name: str) -> Any:
    if name == "database":
        return import_module("tbpay.database")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tbpay' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
