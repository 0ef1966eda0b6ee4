//! Relevo agent.
