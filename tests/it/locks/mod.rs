//! Locks under attack: whoever stands in the way is named and outlasted, and the application waits no longer than it
//! was promised, without one error of our making.

mod budget;
mod holders;
mod monitor;
mod on_blocked;
mod orders;
mod scene;
mod vacuums;

use monitor::Monitor;
use scene::{Busy, Scene, roles};
