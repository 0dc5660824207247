//! What can go wrong between a plan and its server: the network, the server itself, what it is short of, what was set in
//! it, the ledger. After each the state is what the ledger says, and the same command again, or a rollback, works.

mod ledger;
mod limits;
mod network;
mod server;
mod stage;
mod timeouts;
