"""tbpay: orders, balances, discount codes and prices of a prepaid-SMS business."""

__version__ = "0.1.0"
