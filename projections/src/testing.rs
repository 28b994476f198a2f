//! Histories and a log for tests.
