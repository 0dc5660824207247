//! Roles that are no superusers: what they lack is told before anything is done, all at once and with the GRANT that
//! mends it; and owners need nothing else.

mod literal;
mod missing;
mod owners;
