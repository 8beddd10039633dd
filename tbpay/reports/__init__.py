"""Questions that span orders, balances and discount codes: they only read."""
