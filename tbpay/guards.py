"""The guards: triggers by which the database itself keeps the ledger, at the newest revision.

A line is never changed, deleted or replaced, and one that does not follow the line before it is
refused, whoever writes it; so is a charge that does not move the balance by just what it cost. A
balance begins at 0, and its first line follows that; one that was taken over from the web
application began with ``opening_cents``, which nobody changes. What was paid for an order and what
it credited, whose a redemption is, and all of a refund stay as they are. A counter of uses is what
its redemptions add up to. PostgreSQL looks at that, and whether every balance that moved is what
its last line says, when a unit commits. SQLite has nothing that waits for the commit: it looks at a
counter when it moves, which is after its redemption, and lets a balance move by one number at a
time, before its line; the rest is left to ``tbpay ledger verify`` there.

The migrations carry their own copies. ``tbpay db check`` and ``tbpay ledger verify`` compare a
database with what stands here, by name and text.
"""

GUARDS = {
    "sqlite": {
        "transactions_no_change": """
CREATE TRIGGER transactions_no_change BEFORE UPDATE ON transactions
BEGIN SELECT RAISE(ABORT, 'a line is never changed'); END
""",
        "transactions_no_delete": """
CREATE TRIGGER transactions_no_delete BEFORE DELETE ON transactions
BEGIN SELECT RAISE(ABORT, 'a line is never deleted'); END
""",
        "transactions_no_replace": """
CREATE TRIGGER transactions_no_replace BEFORE INSERT ON transactions
WHEN EXISTS (SELECT 1 FROM transactions WHERE id = NEW.id)
    OR EXISTS (
        SELECT 1 FROM transactions
        WHERE account_id = NEW.account_id AND account_version = NEW.account_version
    )
    OR EXISTS (SELECT 1 FROM transactions WHERE idempotency_key = NEW.idempotency_key)
    OR NEW.transaction_type = 'credit' AND EXISTS (
        SELECT 1 FROM transactions
        WHERE order_id = NEW.order_id AND transaction_type = 'credit' AND order_id IS NOT NULL
    )
BEGIN SELECT RAISE(ABORT, 'a line is never replaced'); END
""",
        "transactions_follow": """
CREATE TRIGGER transactions_follow BEFORE INSERT ON transactions
WHEN NEW.account_version < 1
    OR NOT EXISTS (
        SELECT 1 FROM account_balances
        WHERE account_id = NEW.account_id
            AND account_version = NEW.account_version
            AND balance_cents = NEW.balance_after_cents
    )
    OR NEW.account_version = 1 AND NOT EXISTS (
        SELECT 1 FROM account_balances
        WHERE account_id = NEW.account_id
            AND NEW.balance_after_cents = opening_cents
                + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
    )
    OR NEW.account_version > 1 AND NOT EXISTS (
        SELECT 1 FROM transactions AS earlier
        WHERE earlier.account_id = NEW.account_id
            AND earlier.account_version = NEW.account_version - 1
            AND NEW.balance_after_cents = earlier.balance_after_cents
                + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
    )
BEGIN SELECT RAISE(ABORT, 'a line follows the balance and the line before it'); END
""",
        "account_balances_begin": """
CREATE TRIGGER account_balances_begin BEFORE INSERT ON account_balances
WHEN NEW.balance_cents <> 0 OR NEW.account_version <> 0 OR NEW.opening_cents <> 0
    OR EXISTS (SELECT 1 FROM account_balances WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM account_balances WHERE account_id = NEW.account_id)
BEGIN SELECT RAISE(ABORT, 'a balance begins at 0, and once'); END
""",
        "account_balances_move": """
CREATE TRIGGER account_balances_move BEFORE UPDATE ON account_balances
WHEN NEW.id IS NOT OLD.id
    OR NEW.account_id IS NOT OLD.account_id
    OR NEW.opening_cents IS NOT OLD.opening_cents
    OR NEW.account_version IS NULL
    OR NEW.account_version NOT IN (OLD.account_version, OLD.account_version + 1)
    OR NEW.account_version = OLD.account_version AND NEW.balance_cents IS NOT OLD.balance_cents
BEGIN SELECT RAISE(ABORT, 'a balance keeps its account, and moves by a line'); END
""",
        "account_balances_no_delete": """
CREATE TRIGGER account_balances_no_delete BEFORE DELETE ON account_balances
WHEN OLD.account_version > 0 OR OLD.opening_cents <> 0
BEGIN SELECT RAISE(ABORT, 'a balance with lines is never deleted'); END
""",
        "orders_no_delete": """
CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders
BEGIN SELECT RAISE(ABORT, 'an order is never deleted'); END
""",
        "orders_no_replace": """
CREATE TRIGGER orders_no_replace BEFORE INSERT ON orders
WHEN EXISTS (SELECT 1 FROM orders WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM orders WHERE stripe_session_id = NEW.stripe_session_id)
    OR EXISTS (
        SELECT 1 FROM orders WHERE stripe_payment_intent_id = NEW.stripe_payment_intent_id
    )
    OR EXISTS (SELECT 1 FROM orders WHERE idempotency_key = NEW.idempotency_key)
BEGIN SELECT RAISE(ABORT, 'an order is never replaced'); END
""",
        "discount_redemptions_no_change": """
CREATE TRIGGER discount_redemptions_no_change BEFORE UPDATE
OF id, discount_code_id, order_id, account_id, reduction_cents ON discount_redemptions
BEGIN SELECT RAISE(ABORT, 'a redemption keeps what it is of'); END
""",
        "discount_redemptions_no_delete": """
CREATE TRIGGER discount_redemptions_no_delete BEFORE DELETE ON discount_redemptions
BEGIN SELECT RAISE(ABORT, 'a redemption is never deleted'); END
""",
        "discount_redemptions_no_replace": """
CREATE TRIGGER discount_redemptions_no_replace BEFORE INSERT ON discount_redemptions
WHEN EXISTS (SELECT 1 FROM discount_redemptions WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM discount_redemptions WHERE order_id = NEW.order_id)
BEGIN SELECT RAISE(ABORT, 'a redemption is never replaced'); END
""",
        "discount_codes_add_up": """
CREATE TRIGGER discount_codes_add_up BEFORE UPDATE OF current_uses ON discount_codes
WHEN NEW.current_uses <> OLD.current_uses
    AND NEW.current_uses <> (
        SELECT count(*) FROM discount_redemptions
        WHERE discount_code_id = NEW.id AND status IN ('reserved', 'redeemed')
    )
BEGIN
    SELECT RAISE(ABORT, 'the uses of a discount code are what its redemptions add up to');
END
""",
        "orders_no_change": """
CREATE TRIGGER orders_no_change BEFORE UPDATE ON orders
WHEN NEW.id IS NOT OLD.id
    OR NEW.account_id IS NOT OLD.account_id
    OR OLD.status IN ('completed', 'refunded') AND (
        NEW.status NOT IN ('completed', 'refunded')
        OR NEW.amount_cents IS NOT OLD.amount_cents
        OR NEW.credit_cents IS NOT OLD.credit_cents
    )
    OR EXISTS (
        SELECT 1 FROM orders
        WHERE id <> OLD.id AND stripe_session_id = NEW.stripe_session_id
    )
    OR EXISTS (
        SELECT 1 FROM orders
        WHERE id <> OLD.id AND stripe_payment_intent_id = NEW.stripe_payment_intent_id
    )
    OR EXISTS (
        SELECT 1 FROM orders WHERE id <> OLD.id AND idempotency_key = NEW.idempotency_key
    )
BEGIN SELECT RAISE(ABORT, 'an order keeps its account, and what was paid and credited'); END
""",
        "order_refunds_no_change": """
CREATE TRIGGER order_refunds_no_change BEFORE UPDATE ON order_refunds
BEGIN SELECT RAISE(ABORT, 'a refund is never changed'); END
""",
        "order_refunds_no_delete": """
CREATE TRIGGER order_refunds_no_delete BEFORE DELETE ON order_refunds
BEGIN SELECT RAISE(ABORT, 'a refund is never deleted'); END
""",
        "order_refunds_no_replace": """
CREATE TRIGGER order_refunds_no_replace BEFORE INSERT ON order_refunds
WHEN EXISTS (SELECT 1 FROM order_refunds WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM order_refunds WHERE stripe_refund_id = NEW.stripe_refund_id)
    OR EXISTS (SELECT 1 FROM order_refunds WHERE transaction_id = NEW.transaction_id)
    OR EXISTS (SELECT 1 FROM order_refunds WHERE idempotency_key = NEW.idempotency_key)
BEGIN SELECT RAISE(ABORT, 'a refund is never replaced'); END
""",
        "sms_charges_no_change": """
CREATE TRIGGER sms_charges_no_change BEFORE UPDATE ON sms_charges
BEGIN SELECT RAISE(ABORT, 'a charge is never changed'); END
""",
        "sms_charges_no_delete": """
CREATE TRIGGER sms_charges_no_delete BEFORE DELETE ON sms_charges
BEGIN SELECT RAISE(ABORT, 'a charge is never deleted'); END
""",
        "sms_charges_no_replace": """
CREATE TRIGGER sms_charges_no_replace BEFORE INSERT ON sms_charges
WHEN EXISTS (SELECT 1 FROM sms_charges WHERE id = NEW.id)
    OR EXISTS (SELECT 1 FROM sms_charges WHERE transaction_id = NEW.transaction_id)
    OR EXISTS (SELECT 1 FROM sms_charges WHERE gives_back_id = NEW.gives_back_id)
BEGIN SELECT RAISE(ABORT, 'a charge is never replaced'); END
""",
        "sms_charges_follow": """
CREATE TRIGGER sms_charges_follow BEFORE INSERT ON sms_charges
WHEN NOT EXISTS (
    SELECT 1 FROM transactions AS line
    JOIN account_balances AS balance ON balance.account_id = line.account_id
    WHERE line.id = NEW.transaction_id
        AND line.account_id = NEW.account_id
        AND line.account_version = balance.account_version
        AND NEW.subcent_after_micros = balance.subcent_micros
        AND line.transaction_type
            = CASE WHEN NEW.gives_back_id IS NULL THEN 'debit' ELSE 'credit' END
        AND line.amount_cents * 10000 + coalesce((
            SELECT earlier.subcent_after_micros FROM sms_charges AS earlier
            WHERE earlier.account_id = NEW.account_id
            ORDER BY earlier.transaction_id DESC LIMIT 1
        ), 0) * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
            = NEW.cost_micros
            + NEW.subcent_after_micros * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
) OR NEW.gives_back_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM sms_charges AS given
    WHERE given.transaction_id = NEW.gives_back_id
        AND given.gives_back_id IS NULL
        AND given.account_id = NEW.account_id
        AND given.cost_micros = NEW.cost_micros
)
BEGIN SELECT RAISE(ABORT, 'a charge moves the balance by just what it cost'); END
""",
    },
    "postgresql": {
        "transactions_no_change": """
CREATE TRIGGER transactions_no_change BEFORE UPDATE OR DELETE ON transactions
FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
""",
        "transactions_no_truncate": """
CREATE TRIGGER transactions_no_truncate BEFORE TRUNCATE ON transactions
FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
""",
        "transactions_follow": """
CREATE TRIGGER transactions_follow BEFORE INSERT ON transactions
FOR EACH ROW EXECUTE FUNCTION tbpay_line_follows()
""",
        "account_balances_follow": """
CREATE CONSTRAINT TRIGGER account_balances_follow AFTER INSERT OR UPDATE ON account_balances
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tbpay_balance_follows()
""",
        "account_balances_no_delete": """
CREATE TRIGGER account_balances_no_delete BEFORE DELETE ON account_balances
FOR EACH ROW WHEN (old.account_version > 0 OR old.opening_cents <> 0)
EXECUTE FUNCTION tbpay_refuse()
""",
        "account_balances_no_truncate": """
CREATE TRIGGER account_balances_no_truncate BEFORE TRUNCATE ON account_balances
FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
""",
        "orders_no_delete": """
CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders
FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
""",
        "orders_no_truncate": """
CREATE TRIGGER orders_no_truncate BEFORE TRUNCATE ON orders
FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
""",
        "discount_redemptions_no_change": """
CREATE TRIGGER discount_redemptions_no_change BEFORE UPDATE
OF id, discount_code_id, order_id, account_id, reduction_cents ON discount_redemptions
FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
""",
        "discount_redemptions_no_delete": """
CREATE TRIGGER discount_redemptions_no_delete BEFORE DELETE ON discount_redemptions
FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
""",
        "discount_redemptions_no_truncate": """
CREATE TRIGGER discount_redemptions_no_truncate BEFORE TRUNCATE ON discount_redemptions
FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
""",
        "discount_redemptions_add_up": """
CREATE CONSTRAINT TRIGGER discount_redemptions_add_up AFTER INSERT OR UPDATE ON discount_redemptions
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tbpay_uses_add_up()
""",
        "discount_codes_add_up": """
CREATE CONSTRAINT TRIGGER discount_codes_add_up AFTER INSERT OR UPDATE ON discount_codes
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tbpay_uses_add_up()
""",
        "orders_no_change": """
CREATE TRIGGER orders_no_change BEFORE UPDATE ON orders
FOR EACH ROW EXECUTE FUNCTION tbpay_order_keeps()
""",
        "order_refunds_no_change": """
CREATE TRIGGER order_refunds_no_change BEFORE UPDATE OR DELETE ON order_refunds
FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
""",
        "order_refunds_no_truncate": """
CREATE TRIGGER order_refunds_no_truncate BEFORE TRUNCATE ON order_refunds
FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
""",
        "sms_charges_no_change": """
CREATE TRIGGER sms_charges_no_change BEFORE UPDATE OR DELETE ON sms_charges
FOR EACH ROW EXECUTE FUNCTION tbpay_refuse()
""",
        "sms_charges_no_truncate": """
CREATE TRIGGER sms_charges_no_truncate BEFORE TRUNCATE ON sms_charges
FOR EACH STATEMENT EXECUTE FUNCTION tbpay_refuse()
""",
        "sms_charges_follow": """
CREATE TRIGGER sms_charges_follow BEFORE INSERT ON sms_charges
FOR EACH ROW EXECUTE FUNCTION tbpay_charge_follows()
""",
    },
}
"""For each dialect the statement that makes a guard, by the guard's name."""

GUARD_FUNCTIONS = {
    "tbpay_refuse": """
BEGIN
    RAISE EXCEPTION '% on % is refused: its rows are kept', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
""",
    "tbpay_line_follows": """
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM account_balances
        WHERE account_id = NEW.account_id
            AND account_version = NEW.account_version
            AND balance_cents = NEW.balance_after_cents
    ) OR NEW.account_version = 1 AND NOT EXISTS (
        SELECT 1 FROM account_balances
        WHERE account_id = NEW.account_id
            AND NEW.balance_after_cents = opening_cents
                + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
    ) OR NEW.account_version > 1 AND NOT EXISTS (
        SELECT 1 FROM transactions AS earlier
        WHERE earlier.account_id = NEW.account_id
            AND earlier.account_version = NEW.account_version - 1
            AND NEW.balance_after_cents = earlier.balance_after_cents
                + CASE NEW.transaction_type WHEN 'credit' THEN 1 ELSE -1 END * NEW.amount_cents
    ) THEN
        RAISE EXCEPTION 'a line follows the balance and the line before it'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
""",
    "tbpay_balance_follows": """
DECLARE
    last account_balances;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.id <> NEW.id
            OR OLD.account_id <> NEW.account_id
            OR OLD.opening_cents <> NEW.opening_cents
        THEN
            RAISE EXCEPTION 'a balance keeps its account, and what it began with'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF OLD.balance_cents = NEW.balance_cents
            AND OLD.subcent_micros = NEW.subcent_micros
            AND OLD.account_version = NEW.account_version
        THEN
            RETURN NULL;
        END IF;
    ELSIF NEW.opening_cents <> 0 THEN
        RAISE EXCEPTION 'a balance begins at 0' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT * INTO last FROM account_balances WHERE account_id = NEW.account_id;
    IF FOUND AND NOT (
        last.account_version = 0 AND last.balance_cents = last.opening_cents
        OR EXISTS (
            SELECT 1 FROM transactions
            WHERE account_id = last.account_id
                AND account_version = last.account_version
                AND balance_after_cents = last.balance_cents
        )
    ) OR last.subcent_micros <> coalesce((
        SELECT subcent_after_micros FROM sms_charges
        WHERE account_id = last.account_id ORDER BY transaction_id DESC LIMIT 1
    ), 0) OR EXISTS (
        SELECT 1 FROM transactions
        WHERE account_id = last.account_id AND account_version > last.account_version
    ) THEN
        RAISE EXCEPTION 'a balance is what its last line says'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
""",
    "tbpay_uses_add_up": """
DECLARE
    code_id bigint := NEW.id;
BEGIN
    IF TG_TABLE_NAME = 'discount_redemptions' THEN
        code_id := NEW.discount_code_id;
        IF TG_OP = 'UPDATE' THEN
            IF (OLD.status IN ('reserved', 'redeemed')) = (NEW.status IN ('reserved', 'redeemed'))
            THEN
                RETURN NULL;
            END IF;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF OLD.current_uses = NEW.current_uses THEN
            RETURN NULL;
        END IF;
    END IF;
    -- One statement, and so one view: another unit may commit between two.
    IF EXISTS (
        SELECT 1 FROM discount_codes WHERE id = code_id AND current_uses <> (
            SELECT count(*) FROM discount_redemptions
            WHERE discount_code_id = code_id AND status IN ('reserved', 'redeemed')
        )
    ) THEN
        RAISE EXCEPTION 'the uses of a discount code are what its redemptions add up to'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
""",
    "tbpay_order_keeps": """
BEGIN
    IF NEW.id <> OLD.id
        OR NEW.account_id <> OLD.account_id
        OR OLD.status IN ('completed', 'refunded') AND (
            NEW.status NOT IN ('completed', 'refunded')
            OR NEW.amount_cents <> OLD.amount_cents
            OR NEW.credit_cents IS DISTINCT FROM OLD.credit_cents
        )
    THEN
        RAISE EXCEPTION 'an order keeps its account, and what was paid and credited'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
""",
    "tbpay_charge_follows": """
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM transactions AS line
        JOIN account_balances AS balance ON balance.account_id = line.account_id
        WHERE line.id = NEW.transaction_id
            AND line.account_id = NEW.account_id
            AND line.account_version = balance.account_version
            AND NEW.subcent_after_micros = balance.subcent_micros
            AND line.transaction_type
                = CASE WHEN NEW.gives_back_id IS NULL THEN 'debit' ELSE 'credit' END
            AND line.amount_cents * 10000 + coalesce((
                SELECT earlier.subcent_after_micros FROM sms_charges AS earlier
                WHERE earlier.account_id = NEW.account_id
                ORDER BY earlier.transaction_id DESC LIMIT 1
            ), 0) * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
                = NEW.cost_micros
                + NEW.subcent_after_micros * CASE WHEN NEW.gives_back_id IS NULL THEN 1 ELSE -1 END
    ) OR NEW.gives_back_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM sms_charges AS given
        WHERE given.transaction_id = NEW.gives_back_id
            AND given.gives_back_id IS NULL
            AND given.account_id = NEW.account_id
            AND given.cost_micros = NEW.cost_micros
    ) THEN
        RAISE EXCEPTION 'a charge moves the balance by just what it cost'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
""",
}
"""PostgreSQL's trigger functions: the body of each by its name."""
