CREATE ROLE app; CREATE ROLE reader; CREATE ROLE team; GRANT team TO app;
GRANT CREATE, USAGE ON SCHEMA public TO app;
CREATE SCHEMA "Other Schema"; CREATE SCHEMA pgmorph; CREATE TABLE pgmorph.ledger (id int);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN plain_domain AS text;
CREATE DOMAIN nested AS positive;
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE customers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  email varchar(100) COLLATE "C" NOT NULL,
  region text, tier int,
  manager bigint REFERENCES customers (id),
  CONSTRAINT customers_region_tier UNIQUE (tier, region)
);
COMMENT ON TABLE customers IS 'who buys'; COMMENT ON COLUMN customers.email IS 'lower case';
COMMENT ON CONSTRAINT customers_region_tier ON customers IS 'both';
CREATE TABLE orders (
  id serial PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE ON UPDATE SET NULL,
  tier int, region text,
  amount numeric(10,2) DEFAULT 0.00 NOT NULL,
  total numeric GENERATED ALWAYS AS (amount * 2) STORED,
  feeling mood DEFAULT 'ok', quantity positive, payload jsonb, tags text[], note varchar(20),
  seen timestamptz DEFAULT '2020-01-01 00:00:00+00',
  period tsrange,
  unused int,
  CONSTRAINT orders_amount_check CHECK (amount >= 0 AND id > 0),
  CONSTRAINT orders_composite FOREIGN KEY (region, tier) REFERENCES customers (region, tier) MATCH FULL
    DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT orders_no_overlap EXCLUDE USING gist (period WITH &&) WHERE (amount > 0)
) WITH (fillfactor = 70, autovacuum_enabled = off, toast.autovacuum_enabled = off);
ALTER TABLE orders DROP COLUMN unused;
ALTER TABLE orders ADD COLUMN late int DEFAULT 7;
ALTER TABLE orders ADD CONSTRAINT orders_note_len CHECK (length(note) < 10) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_no_inherit CHECK (late > 0) NO INHERIT;
ALTER TABLE orders ALTER note SET STATISTICS 500, ALTER note SET STORAGE EXTERNAL, ALTER note SET (n_distinct = 5);
ALTER TABLE orders ALTER payload SET COMPRESSION pglz;
CREATE INDEX orders_expr ON orders (lower(note) COLLATE "C" DESC, (amount + 1), customer_id DESC NULLS LAST)
  INCLUDE (region) WITH (fillfactor = 80, deduplicate_items = off) WHERE tier > 3;
CREATE INDEX orders_pattern ON orders (note varchar_pattern_ops, region COLLATE "C" NULLS FIRST);
CREATE INDEX orders_gin ON orders USING gin (payload jsonb_path_ops, tags);
CREATE INDEX orders_gist ON orders USING gist (to_tsvector('english', note) tsvector_ops (siglen = 32));
CREATE INDEX orders_brin ON orders USING brin (id) WITH (pages_per_range = 16);
CREATE INDEX orders_enum ON orders (feeling, quantity, tags, period);
CREATE UNIQUE INDEX orders_ident ON orders (id, customer_id);
COMMENT ON INDEX orders_ident IS 'identity';
ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_ident;
CLUSTER orders USING orders_pkey;
CREATE STATISTICS orders_stat (dependencies) ON tier, region FROM orders;
CREATE STATISTICS "Other Schema".expr_stat ON lower(note) FROM orders;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER orders_touch BEFORE INSERT OR UPDATE OF note, amount ON orders FOR EACH ROW
  WHEN (new.late > 1) EXECUTE FUNCTION touch();
CREATE TRIGGER orders_after AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE orders ENABLE ALWAYS TRIGGER orders_after;
CREATE RULE orders_rule AS ON DELETE TO orders WHERE old.tier = 9 DO ALSO SELECT 1;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY orders_own ON orders FOR SELECT TO app, PUBLIC USING (region = current_user);
CREATE POLICY orders_write ON orders AS RESTRICTIVE FOR INSERT TO reader WITH CHECK (tier > 0);
CREATE POLICY customers_of_orders ON customers USING (EXISTS (SELECT FROM orders WHERE orders.customer_id = customers.id));
GRANT SELECT ON orders TO reader WITH GRANT OPTION; GRANT UPDATE (note) ON orders TO reader; GRANT SELECT ON orders TO PUBLIC;
CREATE VIEW order_view WITH (security_barrier) AS SELECT id, amount FROM orders WHERE tier > 1;
CREATE VIEW view_on_view AS SELECT id FROM order_view;
CREATE VIEW counting AS SELECT count(*) FROM orders;
GRANT SELECT ON order_view TO reader;
CREATE MATERIALIZED VIEW order_sums AS SELECT customer_id, sum(amount) AS s FROM orders GROUP BY 1;
CREATE UNIQUE INDEX order_sums_key ON order_sums (customer_id);
CREATE FUNCTION order_total() RETURNS numeric LANGUAGE sql BEGIN ATOMIC SELECT sum(amount) FROM orders; END;
CREATE FUNCTION takes_order(o orders) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE holder (o orders, os orders[]);
CREATE TABLE events (id bigint NOT NULL, at date NOT NULL, kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (id);
CREATE TABLE events_2020_1 PARTITION OF events_2020 FOR VALUES IN (1);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE INDEX events_kind ON events (kind);
CREATE TRIGGER events_touch BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE event_notes (event_id bigint, event_at date, FOREIGN KEY (event_id, event_at) REFERENCES events);
CREATE TABLE by_expression (a int, b text) PARTITION BY RANGE (a, lower(b));
CREATE TABLE parent (a int CHECK (a > 0), b text); CREATE TABLE child (c int) INHERITS (parent);
CREATE UNLOGGED TABLE scratch (a int, b varchar(10), c char(3), d timestamp(3), e "char", f interval day to second(2));
CREATE TABLE typed OF pair;
CREATE TABLE "Other Schema"."We""ird Näme" ("select" int PRIMARY KEY, "Mixed Case" text, "a.b" int, "naïve""é" text);
CREATE TABLE "Other Schema".aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ("order" int);
CREATE INDEX "We""ird idx" ON "Other Schema"."We""ird Näme" ("Mixed Case" DESC, ("a.b" + 1));
CREATE TABLE duplicates (a int); INSERT INTO duplicates VALUES (1), (1);
CREATE SEQUENCE plain_seq AS smallint INCREMENT BY -1 CYCLE;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION sold FOR TABLE orders, customers;
INSERT INTO customers (email) SELECT 'a' || g FROM generate_series(1, 100) g;
INSERT INTO orders (customer_id, payload) SELECT g, '{}' FROM generate_series(1, 100) g;
INSERT INTO events SELECT g, '2022-01-01', 'x' FROM generate_series(1, 50) g;
ANALYZE;
