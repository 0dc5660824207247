-- :rows rows in each table; psql -v rows=1000000 sets the number.
INSERT INTO forecast_snapshots (fund_id, name, status, fund_state, snapshot_time, version, idempotency_key)
SELECT n % 500, 'Forecast ' || n, (ARRAY['pending', 'calculating', 'complete', 'error'])[1 + n % 4],
       jsonb_build_object('nav', n * 17 % 100000), timestamptz '2025-01-01' + n * interval '7 seconds',
       1 + n % 40, CASE WHEN n % 3 > 0 THEN 'forecast-' || n END
FROM generate_series(1, :rows) n;

INSERT INTO investment_lots (investment_id, lot_type, share_price_cents, shares_acquired, cost_basis_cents, created_at, version, idempotency_key)
SELECT n % 2000, (ARRAY['initial', 'follow_on', 'secondary'])[1 + n % 3], 100 + n % 9000, n % 1000 + 0.5, n * 31 % 10000000,
       timestamptz '2025-01-01' + n * interval '5 seconds', 1 + n % 40, CASE WHEN n % 4 > 0 THEN 'lot-' || n END
FROM generate_series(1, :rows) n;

INSERT INTO reserve_allocations (snapshot_id, company_id, planned_reserve_cents, rationale, calculated_at, version, idempotency_key)
SELECT md5((n % 5000)::text)::uuid, n % 300, n * 13 % 90000000, 'Allocation ' || n,
       timestamptz '2025-01-01' + n * interval '3 seconds', 1 + n % 40, CASE WHEN n % 2 > 0 THEN 'reserve-' || n END
FROM generate_series(1, :rows) n;

ANALYZE forecast_snapshots, investment_lots, reserve_allocations;
