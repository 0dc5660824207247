//! What plans claim is what their statements are seen to do: every plan and every fixture is rehearsed.

mod command;
mod everything;
mod sample;
