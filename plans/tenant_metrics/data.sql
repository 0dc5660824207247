-- What the application writes once the first plan is applied.
INSERT INTO copilot_internal.users (id, email)
SELECT md5('user ' || i)::uuid, 'user' || i || '@example.com' FROM generate_series(1, :rows) AS i;

INSERT INTO copilot_internal.llm_calls (user_id, model, prompt_tokens, completion_tokens, cost_usd, called_at)
SELECT md5('user ' || (1 + i % :rows))::uuid, CASE i % 3 WHEN 0 THEN 'large' ELSE 'small' END, i % 4000, i % 900,
    (i % 700) / 1000.0, now() - (i % 40) * interval '1 day'
FROM generate_series(1, :rows * 5) AS i;

INSERT INTO copilot_internal.e2b_sandboxes (user_id, template, seconds, cost_usd)
SELECT md5('user ' || (1 + i % :rows))::uuid, 'python', i % 3600, (i % 90) / 100.0
FROM generate_series(1, :rows) AS i;
