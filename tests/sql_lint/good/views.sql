CREATE VIEW open_orders AS SELECT * FROM orders WHERE done_at IS NULL;
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, sum(total) AS total FROM orders GROUP BY 1;
CREATE UNIQUE INDEX ON totals (customer_id);
