INSERT INTO users (id, email, created_at)
SELECT md5('user ' || i)::uuid, 'user' || i || '@example.com', now() - i * interval '1 minute'
FROM generate_series(1, :rows) AS i;

INSERT INTO user_credentials (user_id, environment, secret)
SELECT md5('user ' || i)::uuid, CASE i % 2 WHEN 0 THEN 'live' ELSE 'testnet' END, md5('secret ' || i)
FROM generate_series(1, :rows) AS i;
