//! One event of a stream, written down as `text/event-stream` has it (WHATWG HTML, section 9.2.6).

/// What a client sees at once: it is connected, and how long it waits before it connects again, in milliseconds.
pub(crate) const OPENING: &str = "retry: 2000\n: connected\n\n";

/// A comment that says that the stream still stands, and finds out whether somebody is there.
pub(crate) const HEARTBEAT: &str = ": heartbeat\n\n";

/// Appends an event. Neither `id` nor `event` has a line break; `data` may.
pub(crate) fn write(into: &mut String, id: &str, event: &str, data: &str) {
    for (field, value) in [("id", id), ("event", event)] {
        into.extend([field, ": ", value, "\n"]);
    }
    for line in data.split(['\n', '\r']) {
        into.extend(["data: ", line, "\n"]);
    }
    into.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_its_lines_and_ends_with_an_empty_one() {
        let mut text = String::new();
        write(&mut text, "AB", "finished", "{\"a\":1}");
        write(&mut text, "AC", "finished", "one\ntwo");
        assert_eq!(
            text,
            "id: AB\nevent: finished\ndata: {\"a\":1}\n\nid: AC\nevent: finished\ndata: one\ndata: two\n\n"
        );
    }
}
