//! Runs that are looked at: `report`, `status --watch`, logs for machines, differences of plans, and the pages themselves.

mod diff;
mod examples;
mod logs;
mod pages;
mod report;
mod three_commands;
mod watch;
