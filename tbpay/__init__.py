"""tbpay: orders, balances, discount codes and prices of a prepaid-SMS business.

``from tbpay import …`` works for every name of ``__all__``. A name's module is imported when the
name is first asked for, so that ``import tbpay`` itself costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbpay import database as database
    from tbpay.database import (
        atomically as atomically,
        configure as configure,
        snapshot as snapshot,
        unit_of_work as unit_of_work,
    )
    from tbpay.models import (
        Account as Account,
        AccountBalance as AccountBalance,
        AuditEntry as AuditEntry,
        CountrySMSCost as CountrySMSCost,
        DiscountCode as DiscountCode,
        DiscountType as DiscountType,
        Order as Order,
        OrderStatus as OrderStatus,
        OrderType as OrderType,
        Page as Page,
        Redemption as Redemption,
        RedemptionStatus as RedemptionStatus,
        Refund as Refund,
        RefundPolicy as RefundPolicy,
        Transaction as Transaction,
        TransactionType as TransactionType,
    )
    from tbpay.segments import (
        Culprit as Culprit,
        SegmentCount as SegmentCount,
        count_segments as count_segments,
    )
    from tbpay.sms_pricing import (
        MARGIN_PERCENT as MARGIN_PERCENT,
        SMS_COSTS_BY_COUNTRY as SMS_COSTS_BY_COUNTRY,
        InvalidPhoneError as InvalidPhoneError,
        Quote as Quote,
        calculate_sms_cost_cents as calculate_sms_cost_cents,
        get_country_from_phone as get_country_from_phone,
        get_segments_per_topup as get_segments_per_topup,
        get_sms_cost as get_sms_cost,
        quote as quote,
    )
    from tbpay.stores import (
        AccountStore as AccountStore,
        BalanceStore as BalanceStore,
        DiscountCodeStore as DiscountCodeStore,
        OrderStore as OrderStore,
        account_store as account_store,
        balance_store as balance_store,
        discount_code_store as discount_code_store,
        order_store as order_store,
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
        "Redemption",
        "RedemptionStatus",
        "Refund",
        "RefundPolicy",
        "Transaction",
        "TransactionType",
    ),
    "tbpay.segments": ("Culprit", "SegmentCount", "count_segments"),
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
