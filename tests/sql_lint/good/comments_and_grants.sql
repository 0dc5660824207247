COMMENT ON TABLE orders IS 'all of them';
COMMENT ON COLUMN orders.note IS 'by the customer';
GRANT SELECT ON orders TO reporting;
