ALTER TYPE order_state ADD VALUE IF NOT EXISTS 'returned' AFTER 'sent';
