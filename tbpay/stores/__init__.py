"""The stores: the only code that reads or writes the tables.

A store takes and returns plain values, never prints, and refuses with an error of
``tbpay.errors``. ``get_*`` answers None where nothing is there; what changes something raises. A
call is a unit of work of its own, or a part of the one that is open.
"""

from tbpay.stores.accounts import AccountStore, account_store
from tbpay.stores.audit import AuditStore, audit_store
from tbpay.stores.balances import BalanceStore, balance_store
from tbpay.stores.discounts import DiscountCodeStore, discount_code_store
from tbpay.stores.orders import OrderStore, order_store

__all__ = [
    "AccountStore",
    "AuditStore",
    "BalanceStore",
    "DiscountCodeStore",
    "OrderStore",
    "account_store",
    "audit_store",
    "balance_store",
    "discount_code_store",
    "order_store",
]
