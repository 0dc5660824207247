//! The lint of raw SQL: its effects against what was measured, its rules against migrations, its command.

mod command;
mod matrix;
mod migrations;
