//! What the guard lets go, whatever is done to clocks, settings and catalogue.
#![allow(clippy::unwrap_used)]
