CREATE SCHEMA lth;
CREATE TABLE customer_portfolios (
    portfolio_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    label text NOT NULL UNIQUE,
    account bigint,
    status text NOT NULL DEFAULT 'active',
    closed_at timestamptz,
    by_old bigint NOT NULL DEFAULT 0,
    by_new bigint NOT NULL DEFAULT 0
);
CREATE TABLE lth.customer_strategies (
    customer_strategy_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    portfolio_id uuid UNIQUE REFERENCES customer_portfolios ON UPDATE CASCADE,
    min_order numeric(38, 2) NOT NULL DEFAULT 1,
    live boolean NOT NULL DEFAULT false,
    switched bigint NOT NULL DEFAULT 0
);
CREATE TABLE customer_strategies (
    customer_strategy_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    portfolio_id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    label text NOT NULL UNIQUE,
    account bigint NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'active', 'paused', 'closed')),
    closed_at timestamptz,
    min_order numeric(20, 2) DEFAULT 1,
    live boolean NOT NULL DEFAULT false,
    switched bigint NOT NULL DEFAULT 0,
    by_old bigint NOT NULL DEFAULT 0,
    by_new bigint NOT NULL DEFAULT 0,
    fee numeric(5, 4)
);
INSERT INTO customer_portfolios (label, account)
    SELECT 'portfolio ' || i, CASE WHEN i % 5 > 0 THEN i END FROM generate_series(1, 2000) AS i;
INSERT INTO lth.customer_strategies (portfolio_id, live)
    SELECT portfolio_id, account % 2 = 0 FROM customer_portfolios WHERE account % 3 > 0;
