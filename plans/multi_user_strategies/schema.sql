-- Users and their credentials as they are before strategies belong to users. There is no table of trades yet: the
-- application creates it with its first trade.
CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE user_credentials (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    broker varchar(50) NOT NULL DEFAULT 'deribit',
    environment varchar(20) NOT NULL,
    secret text NOT NULL,
    UNIQUE (user_id, broker, environment)
);
