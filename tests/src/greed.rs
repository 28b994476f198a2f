//! Greedy clients: each wants all there is of one thing, again and again.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client::{Client, send},
    guests::Guest,
    raw::Connection,
    tenants::Tenant,
    told::Told,
};

/// How long a greedy client rests after it was refused: so briefly that it is no client which heeds `Retry-After`, and long
/// enough that it is not the refusals that the node is attacked with.
pub const REST: Duration = Duration::from_millis(20);

/// Writes 16 mebibytes to standard output, others at each run: as much as is kept of the widest tier's.
pub const WRITES_16_MIB: Guest = Guest {
    name: "writes-16-mib",
    text: r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (local $calls i32)
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
    (drop (call $random_get (i32.const 65536) (i32.const 32)))
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $calls (i32.add (local.get $calls) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $calls) (i32.const 256))))))"#,
};

/// Sends requests in so many lanes, in each the next one when the one before was answered, and counts the answers. It goes on
/// until the set is dropped. `request` makes one for the lane of this number.
pub fn lanes<R>(told: &Told, count: usize, request: R) -> JoinSet<()>
where
    R: Fn(usize) -> RequestBuilder + Clone + Send + Sync + 'static,
{
    let mut lanes = JoinSet::new();
    for number in 0..count {
        lanes.spawn(lane(told.clone(), number, request.clone()));
    }
    lanes
}

async fn lane(told: Told, number: usize, request: impl Fn(usize) -> RequestBuilder) {
    loop {
        let answered = send(request(number)).await.inspect(|answer| told.answer(answer));
        if !answered.is_ok_and(|answer| answer.status.is_success()) {
            sleep(REST).await;
        }
    }
}

/// Asks for 16 MiB of output over a connection of HTTP/1.1, and reads nothing. The tenant has published [`WRITES_16_MIB`].
///
/// # Errors
/// When the node takes no connection.
pub async fn unread_output(url: &str, tenant: &Tenant) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(url).await?;
    let request = format!(
        "POST /v1/modules/{}/executions HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Accept: application/octet-stream\r\nContent-Length: 0\r\n\r\n",
        WRITES_16_MIB.name, tenant.key.secret
    );
    connection.send(request).await?;
    Ok(connection)
}

/// A module that shows `exports` long names, so that a list of some of it is large.
///
/// # Errors
/// When it does not assemble.
pub fn verbose(exports: usize) -> anyhow::Result<Vec<u8>> {
    let names = (0..exports).map(|number| format!("(export \"{number:0>120}\" (func $f))")).collect::<String>();
    let text = format!("(module (memory (export \"memory\") 1) (func $f) (func (export \"_start\")) {names})");
    Ok(wat::parse_str(text)?)
}

/// Publishes such a module under so many names.
///
/// # Errors
/// When one is not taken.
pub async fn publish_verbose(client: &Client, names: usize) -> anyhow::Result<()> {
    let wasm = verbose(400)?;
    for number in 0..names {
        client.put_module(&format!("verbose-{number}"), wasm.clone()).await?.expect(StatusCode::CREATED)?;
    }
    Ok(())
}

/// The same module under another digest: with a custom section that holds a number.
pub fn numbered(wasm: &[u8], number: u32) -> Vec<u8> {
    // Section 0 of six bytes: a name of one letter, and the number.
    [wasm, &[0, 6, 1, b'n'], &number.to_le_bytes()].concat()
}

/// A module that is valid and within all limits, and takes its compiler long: in each function a thousand values are alive all
/// the time.
///
/// # Errors
/// When it does not assemble.
pub fn slow_to_compile(functions: usize) -> anyhow::Result<Vec<u8>> {
    const VALUES: usize = 1_000;
    let step = |value: usize| {
        let next = (value + 1) % VALUES;
        let leaves =
            if value.is_multiple_of(8) { format!("(br_if 0 (i64.eqz (local.get {value})))") } else { String::new() };
        format!("(local.set {value} (i64.add (local.get {value}) (local.get {next}))){leaves}")
    };
    let body: String = (0..VALUES).map(step).collect();
    let function = format!("(func (local {}) (loop {body} (br 0)))", "i64 ".repeat(VALUES));
    let all = function.repeat(functions);
    Ok(wat::parse_str(format!("(module (memory (export \"memory\") 1) (func (export \"_start\")) {all})"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_makes_another_module_of_the_same_code() {
        let wasm = verbose(1).unwrap();
        let numbered = [numbered(&wasm, 1), numbered(&wasm, 257)];
        assert!(numbered[0] != numbered[1] && numbered.iter().all(|module| module.starts_with(&wasm)));
        assert_eq!(numbered[1].strip_prefix(wasm.as_slice()), Some(&[0, 6, 1, b'n', 1, 1, 0, 0][..]));
    }

    #[test]
    fn what_is_slow_to_compile_is_small() {
        let (one, two) = (slow_to_compile(1).unwrap().len(), slow_to_compile(2).unwrap().len());
        assert!((8_000..16_000).contains(&(two - one)), "{one}, {two}");
    }
}
