INSERT INTO organizations SELECT md5('org ' || i)::uuid, 'Organization ' || i FROM generate_series(1, 10) AS i;
INSERT INTO strategies VALUES ('LTH_PVR', 'LTH PVR BTC DCA'), ('ADV_DCA', 'Advanced BTC DCA');
INSERT INTO lth_pvr.strategy_versions
SELECT md5('version ' || i)::uuid, md5('org ' || i)::uuid, 'v1', now() FROM generate_series(1, 10) AS i;
INSERT INTO customer_details
SELECT i, md5('org ' || (1 + i % 10))::uuid, 'First ' || i, 'Last ' || i, 'active' FROM generate_series(1, :rows) AS i;
INSERT INTO lth_pvr.exchange_accounts
SELECT md5('account ' || i)::uuid, md5('org ' || (1 + i % 10))::uuid, 'Account ' || i FROM generate_series(1, :rows) AS i;

-- Nine in ten have an exchange account already; every twentieth is closed, every fifteenth paused, every twelfth waits.
INSERT INTO customer_portfolios (portfolio_id, org_id, customer_id, strategy_code, label, exchange_account_id, exchange_subaccount,
    status, created_at, closed_at)
SELECT md5('portfolio ' || i)::uuid, md5('org ' || (1 + i % 10))::uuid, i,
    CASE i % 4 WHEN 0 THEN 'ADV_DCA' ELSE 'LTH_PVR' END, 'First ' || i || ' Last ' || i || ' - BTC DCA',
    CASE WHEN i % 10 > 0 OR i % 20 = 0 THEN md5('account ' || i)::uuid END, 'sub-' || i,
    CASE WHEN i % 20 = 0 THEN 'closed' WHEN i % 15 = 0 THEN 'paused' WHEN i % 12 = 0 THEN 'pending' ELSE 'active' END,
    timestamptz '2025-06-01 08:00 UTC' + (i % 5000) * interval '1 hour',
    CASE WHEN i % 20 = 0 THEN timestamptz '2026-01-10 12:00 UTC' END
FROM generate_series(1, :rows) AS i;

-- Those of LTH_PVR that are not waiting are traded, some since before their portfolio was made.
INSERT INTO lth_pvr.customer_strategies (customer_strategy_id, org_id, customer_id, strategy_version_id, exchange_account_id,
    live_enabled, min_order_usdt, effective_from, effective_to, created_at, portfolio_id)
SELECT md5('strategy ' || i)::uuid, p.org_id, p.customer_id, md5('version ' || (1 + i % 10))::uuid, md5('account ' || i)::uuid,
    p.status = 'active', 1 + i % 50, (p.created_at AT TIME ZONE 'UTC')::date - i % 3,
    (p.closed_at AT TIME ZONE 'UTC')::date, p.created_at - (i % 3) * interval '1 day', p.portfolio_id
FROM generate_series(1, :rows) AS i JOIN customer_portfolios AS p ON p.customer_id = i
WHERE p.strategy_code = 'LTH_PVR' AND p.status <> 'pending';

INSERT INTO lth_pvr.balances_daily SELECT i, CURRENT_DATE, i % 10000 FROM generate_series(1, :rows, 7) AS i;
