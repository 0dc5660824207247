INSERT INTO states (id, name) VALUES (1, 'new'), (2, 'sent') ON CONFLICT DO NOTHING;
DELETE FROM states WHERE id = 3;
