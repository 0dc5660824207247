-- One thing in two tables: what a customer follows is a portfolio to some functions and a strategy to others.
CREATE SCHEMA lth_pvr;

CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE customer_details (
    customer_id bigint PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES organizations (id),
    first_names text NOT NULL,
    last_name text NOT NULL,
    registration_status text NOT NULL DEFAULT 'active'
);

CREATE TABLE strategies (
    strategy_code text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE lth_pvr.strategy_versions (
    strategy_version_id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES organizations (id),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE lth_pvr.exchange_accounts (
    exchange_account_id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES organizations (id),
    label text NOT NULL
);

CREATE TABLE lth_pvr.balances_daily (
    customer_id bigint NOT NULL REFERENCES customer_details (customer_id),
    date date NOT NULL,
    nav_usd numeric(20, 2) NOT NULL,
    PRIMARY KEY (customer_id, date)
);

CREATE TABLE customer_portfolios (
    portfolio_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL,
    customer_id bigint NOT NULL REFERENCES customer_details (customer_id),
    strategy_code text NOT NULL REFERENCES strategies (strategy_code),
    label text NOT NULL,
    exchange text NOT NULL DEFAULT 'VALR',
    exchange_account_id uuid REFERENCES lth_pvr.exchange_accounts (exchange_account_id),
    exchange_subaccount text,
    base_asset text NOT NULL DEFAULT 'BTC',
    quote_asset text NOT NULL DEFAULT 'USDT',
    status text NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz
);
CREATE INDEX idx_customer_portfolios_org_cust ON customer_portfolios (org_id, customer_id, strategy_code, status);
CREATE INDEX idx_customer_portfolios_customer ON customer_portfolios (customer_id);

CREATE TABLE lth_pvr.customer_strategies (
    customer_strategy_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL,
    customer_id bigint NOT NULL REFERENCES customer_details (customer_id),
    strategy_version_id uuid NOT NULL REFERENCES lth_pvr.strategy_versions (strategy_version_id),
    exchange_account_id uuid NOT NULL REFERENCES lth_pvr.exchange_accounts (exchange_account_id),
    live_enabled boolean NOT NULL DEFAULT false,
    min_order_usdt numeric(38, 2) NOT NULL DEFAULT 1.00,
    effective_from date NOT NULL DEFAULT CURRENT_DATE,
    effective_to date,
    created_at timestamptz NOT NULL DEFAULT now(),
    portfolio_id uuid REFERENCES customer_portfolios (portfolio_id)
);

CREATE INDEX idx_lth_pvr_customer_strategies_customer ON lth_pvr.customer_strategies (customer_id);

CREATE FUNCTION list_customer_portfolios(p_customer_id bigint)
RETURNS TABLE (portfolio_id uuid, strategy_code text, strategy_name text, status text, nav_usd numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT cp.portfolio_id, cp.strategy_code, cp.strategy_code || ' Strategy', cp.status, coalesce(bd.nav_usd, 0)
    FROM public.customer_portfolios AS cp
    LEFT JOIN lth_pvr.balances_daily AS bd ON bd.customer_id = cp.customer_id AND bd.date = CURRENT_DATE
    WHERE cp.customer_id = p_customer_id;
END $$;
