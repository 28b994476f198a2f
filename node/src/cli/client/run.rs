//! `wasmwiz run`: uploads a module, runs it, and passes on what it wrote and how it ended.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use reqwest::{
    Method, RequestBuilder,
    multipart::{Form, Part},
};
use serde_json::Value;

use super::{
    Connect, Format, block_on, file,
    http::{Api, EXECUTION_BYTES},
    outputs, progress,
    render::{self, Paint},
};
use crate::cli::output;

/// How long an answer may take beyond the guest's own time: the upload, the compiler, the wait for a slot.
const OVERHEAD: Duration = Duration::from_secs(120);

/// The guest's own time when none is given: the most that any tier has by default.
const LONGEST_MS: u64 = 300_000;

/// Upload a module and run it, or run a published one. Its standard output goes to standard output as it is, its standard
/// error and a summary to standard error.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: the guest's own (above 255: 255); 74 its output could not be read in full, 124 its time was up, 125 it did not run or was lost, \
                        130 cancelled, 134 trapped, 137 out of memory, 152 out of fuel; 2 wrong usage.\n\nExamples:\n  \
                        wasmwiz run hello.wasm\n  echo Ada | wasmwiz run greeter.wasm --input -\n  \
                        wasmwiz run --module wordcount --input README.md --arg -l --timeout 2s"
)]
pub struct Run {
    /// The WebAssembly file.
    #[arg(required_unless_present = "module")]
    file: Option<PathBuf>,
    /// Run this published module instead.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    module: Option<String>,
    /// Its version; the latest when absent.
    #[arg(long, requires = "module", value_name = "VERSION")]
    version: Option<u32>,
    /// A file for standard input, or - for that of this command. Without it, the guest has none.
    #[arg(long, value_name = "FILE|-")]
    input: Option<PathBuf>,
    /// An argument for the guest; may be repeated.
    #[arg(long = "arg", value_name = "TEXT", allow_hyphen_values = true)]
    args: Vec<String>,
    /// The most time to run, for instance 500ms, 2s or 1m; at most the tier's.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    timeout: Option<u64>,
    /// Meter the guest: it ends when it has used up this much fuel, about a unit for each instruction, at the same one in every run.
    #[arg(long, value_name = "UNITS")]
    fuel: Option<u64>,
    /// Instead of the guest's output, print the execution as the API shows it.
    #[arg(long, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    connect: Connect,
}

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// Never; what went wrong before the guest ran is said, and 125.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let done = self.connect.api().and_then(|api| block_on(self.execute(&api)));
        let execution = match done {
            Ok(execution) => execution,
            Err(error) => {
                output::error(&error);
                return Ok(ExitCode::from(NOT_RUN));
            }
        };
        match self.output {
            Some(format) => render::show_one(format, &execution)?,
            None => pass_on(&execution),
        }
        if ["stdout", "stderr"].iter().any(|stream| outputs::is_cut(&execution, stream)) {
            return Ok(ExitCode::from(CUT));
        }
        Ok(ExitCode::from(exit_code(&execution)))
    }

    async fn execute(&self, api: &Api) -> anyhow::Result<Value> {
        let input = self.input.as_deref().map(file::input).transpose()?;
        let request = match (&self.module, &self.file) {
            (Some(name), _) => self.published(api, name, input),
            (None, file) => self.upload(api, file.as_deref().unwrap_or_else(|| Path::new("-")), input)?,
        };
        let deadline = Duration::from_millis(self.timeout.unwrap_or(LONGEST_MS)).saturating_add(OVERHEAD);
        let answer = api.send(request, deadline, EXECUTION_BYTES).await?;
        api.settle(&answer, &["v1", "executions"]).await;
        let mut execution = answer.json()?;
        // It has run, whatever becomes of this: a key may run and not read. The line about its end says what is missing.
        if let Err(failure) = outputs::complete(api, &mut execution).await {
            output::progress(format_args!("its whole output cannot be read: {failure}"));
        }
        Ok(execution)
    }

    fn published(&self, api: &Api, name: &str, input: Option<Vec<u8>>) -> RequestBuilder {
        let mut query: Vec<_> = self.args.iter().map(|arg| ("arg", arg.clone())).collect();
        query.extend(self.version.map(|version| ("version", version.to_string())));
        query.extend(self.bounds());
        let url = api.at(&["v1", "modules", name, "executions"], &query);
        api.request(Method::POST, url).body(input.unwrap_or_default())
    }

    /// What the guest may use, as far as it is said.
    fn bounds(&self) -> impl Iterator<Item = (&'static str, String)> {
        let timeout = self.timeout.map(|timeout| ("timeout_ms", timeout.to_string()));
        timeout.into_iter().chain(self.fuel.map(|fuel| ("fuel", fuel.to_string())))
    }

    fn upload(&self, api: &Api, path: &Path, input: Option<Vec<u8>>) -> anyhow::Result<RequestBuilder> {
        let wasm = file::module(path)?;
        let query: Vec<_> = self.bounds().collect();
        let (size, name) = (wasm.len() as u64, path.display().to_string());
        let part = Part::stream_with_length(progress::body(&name, wasm.into()), size).file_name("module.wasm");
        let form = Form::new().part("wasm", part);
        let form = input.into_iter().fold(form, |form, input| form.part("input", Part::bytes(input)));
        let form = self.args.iter().fold(form, |form, arg| form.text("arg", arg.clone()));
        Ok(api.request(Method::POST, api.at(&["v1", "executions"], &query)).multipart(form))
    }
}

/// The guest's streams as they are, and a line about its end.
fn pass_on(execution: &Value) {
    output::raw(&stream(execution, "stdout"));
    output::raw_error(&stream(execution, "stderr"));
    let outcome = render::plain(&render::at(execution, "/outcome"));
    let paint = Paint::of_stderr();
    let outcome = if outcome == "succeeded" { paint.green(&outcome) } else { paint.red(&outcome) };
    let mut line = format!("{outcome}  execution {}", render::plain(&render::at(execution, "/id")));
    for (name, pointer) in [
        ("exit code", "/exit_code"),
        ("fuel", "/usage/fuel"),
        ("cpu ms", "/usage/cpu_ms"),
        ("wall ms", "/usage/wall_ms"),
        ("peak bytes", "/usage/peak_memory_bytes"),
        ("message", "/message"),
    ] {
        let value = render::plain(&render::at(execution, pointer));
        if value != "-" {
            line.push_str(&format!("  {name} {value}"));
        }
    }
    for cut in ["stdout", "stderr"] {
        if execution.pointer(&format!("/truncated/{cut}")) == Some(&Value::Bool(true)) {
            line.push_str(&format!("  {cut} was cut off at its limit"));
        }
        if outputs::is_cut(execution, cut) {
            line.push_str(&format!("  {cut} has more than this"));
        }
    }
    output::progress(line);
}

fn stream(execution: &Value, name: &str) -> Vec<u8> {
    let text = execution.get(name).and_then(Value::as_str).unwrap_or_default();
    let encoding = execution.get(format!("{name}_encoding")).and_then(Value::as_str);
    if encoding == Some("base64") { STANDARD.decode(text).unwrap_or_default() } else { text.as_bytes().to_vec() }
}

/// The guest did not run: as `docker run` has it.
const NOT_RUN: u8 = 125;

/// What it wrote could not be read in full: `EX_IOERR` of sysexits. Whoever has redirected it must not take a part for all.
const CUT: u8 = 74;

/// How the guest ended, as a shell would see a process that ended so: 128 and a signal where the platform ended it.
fn exit_code(execution: &Value) -> u8 {
    match execution.get("outcome").and_then(Value::as_str) {
        Some("succeeded") => 0,
        Some("exited") => {
            let code = execution.get("exit_code").and_then(Value::as_i64).unwrap_or(1);
            u8::try_from(code).unwrap_or(u8::MAX).max(1)
        }
        Some("deadline_exceeded") => 124,
        Some("cancelled") => 130,
        Some("trapped") => 134,
        Some("out_of_memory") => 137,
        Some("out_of_fuel") => 152,
        _ => NOT_RUN,
    }
}

/// Reads a time as people write it.
fn milliseconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("ms") => Some(1),
        Some("s") => Some(1_000),
        Some("m") => Some(60_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let ms = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit)).filter(|ms| *ms > 0);
    ms.ok_or_else(|| "a time is a whole number and its unit: 500ms, 2s or 1m".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_is_the_guests_own_and_the_platforms_where_it_ended_the_guest() {
        for (outcome, exit_code_of_guest, code) in [
            ("succeeded", json!(0), 0),
            ("exited", json!(7), 7),
            ("exited", json!(300), 255),
            ("exited", json!(-1), 255),
            ("deadline_exceeded", json!(null), 124),
            ("trapped", json!(null), 134),
            ("out_of_memory", json!(null), 137),
            ("cancelled", json!(null), 130),
            ("out_of_fuel", json!(null), 152),
            ("failed", json!(null), 125),
            ("lost", json!(null), 125),
            ("of a later version", json!(null), 125),
        ] {
            let execution = json!({"outcome": outcome, "exit_code": exit_code_of_guest});
            assert_eq!(exit_code(&execution), code, "{execution}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!([milliseconds("500ms"), milliseconds("2s"), milliseconds("1m")], [Ok(500), Ok(2_000), Ok(60_000)]);
        for bad in ["", "5", "s", "0s", "-1s", "1h", "18446744073709551615m", "1.5s"] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_output_that_is_no_text_is_passed_on_as_it_was() {
        let execution =
            json!({"stdout": "//4=", "stdout_encoding": "base64", "stderr": "x", "stderr_encoding": "utf-8"});
        assert_eq!((stream(&execution, "stdout"), stream(&execution, "stderr")), (vec![0xff, 0xfe], b"x".to_vec()));
    }
}
