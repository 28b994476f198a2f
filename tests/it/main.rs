//! Scenarios across the crates, in one binary: a module a subject.

mod tidy;
