-- The three tables as they are before the hardening: integer versions that default to 1, and idempotency keys that are
-- unique across all funds.
CREATE TABLE forecast_snapshots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    fund_id integer NOT NULL,
    name text NOT NULL,
    status text NOT NULL DEFAULT 'pending',
    fund_state jsonb,
    snapshot_time timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    idempotency_key text
);
CREATE UNIQUE INDEX forecast_snapshots_idempotency_unique_idx
    ON forecast_snapshots (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX forecast_snapshots_fund_idx ON forecast_snapshots (fund_id, snapshot_time DESC);

CREATE TABLE investment_lots (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    investment_id integer NOT NULL,
    lot_type text NOT NULL,
    share_price_cents bigint NOT NULL,
    shares_acquired numeric(36, 18) NOT NULL,
    cost_basis_cents bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    idempotency_key text
);
CREATE UNIQUE INDEX investment_lots_idempotency_unique_idx
    ON investment_lots (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX investment_lots_investment_idx ON investment_lots (investment_id, lot_type);

CREATE TABLE reserve_allocations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    snapshot_id uuid NOT NULL,
    company_id integer NOT NULL,
    planned_reserve_cents bigint NOT NULL,
    rationale text,
    calculated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1,
    idempotency_key text
);
CREATE UNIQUE INDEX reserve_allocations_idempotency_unique_idx
    ON reserve_allocations (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX reserve_allocations_snapshot_idx ON reserve_allocations (snapshot_id, company_id);
