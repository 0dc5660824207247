-- Buys, and sells of about the same sizes; every 97th symbol has sold more than it ever bought.
INSERT INTO trade_records (id, symbol, side, size, price, total_fees_usd, order_time)
SELECT i, 'SYM-' || i % 100, CASE WHEN (i + i / 100) % 5 < 3 THEN 'buy' ELSE 'sell' END,
    CASE WHEN (i + i / 100) % 5 < 3 THEN 10 + i % 7 WHEN i % 100 = 97 THEN 90 ELSE 12 + i % 5 END,
    100 + (i * 7919) % 500 / 10.0, (i % 13) / 10.0, timestamptz '2025-01-01 00:00 UTC' + i * interval '1 minute'
FROM generate_series(1, :rows) AS i;
SELECT setval(pg_get_serial_sequence('trade_records', 'id'), :rows);

-- As the old system did it: each sell is matched to some buy of its symbol before it, often the wrong one.
UPDATE trade_records AS s SET parent_id = b.id, pnl_usd = (s.price - b.price) * s.size - s.total_fees_usd
FROM trade_records AS b
WHERE s.side = 'sell' AND b.side = 'buy' AND b.symbol = s.symbol AND b.id = s.id - 100;
UPDATE trade_records SET remaining_size = size WHERE side = 'buy';
