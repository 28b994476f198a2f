//! Programs in C, compiled for WASI: run as they come, by the door that takes module and input together.

use anyhow::ensure;
use bytes::Bytes;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::Value;
use wasmwiz_tests::{client::Client, guests, harness::NodeProcess, tenants::register};

/// Uploads a program and runs it at once.
async fn upload(client: &Client, program: &str, input: &[u8], arguments: &[&str]) -> anyhow::Result<Value> {
    let part = |bytes: Vec<u8>, name: &str| Part::stream(Bytes::from(bytes)).file_name(name.to_owned());
    let wasm = part(guests::compiled(program)?, "program.wasm");
    let mut form = Form::new().part("wasm", wasm).part("input", part(input.to_vec(), "input"));
    for argument in arguments {
        form = form.text("arg", (*argument).to_owned());
    }
    let answer = client.send(client.request(Method::POST, "/v1/executions").multipart(form)).await?;
    answer.is(200)
}

#[tokio::test]
async fn c_programs_are_uploaded_and_run_at_once() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    let client = node.client()?;

    let counted = upload(&client, "wordcount", b"one two\nthree\n", &[]).await?;
    ensure!(counted["outcome"] == "succeeded" && counted["exit_code"] == 0, "{counted}");
    ensure!(counted["stdout"] == "2 3 14\n", "{counted}");
    ensure!(counted["module"]["name"].is_null(), "an upload that runs at once has no name: {counted}");

    let large = "word \n".repeat(500_000);
    let counted = upload(&client, "wordcount", large.as_bytes(), &[]).await?;
    ensure!(counted["stdout"] == "500000 500000 3000000\n", "{counted}");

    let told = upload(&client, "arguments", b"", &["-v", "two words", "", "ünïcode"]).await?;
    ensure!(told["stdout"] == "-v\ntwo words\n\nünïcode\n", "{told}");

    let reached = upload(&client, "reach", b"", &[]).await?;
    ensure!(reached["outcome"] == "succeeded" && reached["stdout"] == "", "a guest reached out: {reached}");
    Ok(())
}

#[tokio::test]
async fn an_honest_program_gets_the_memory_of_its_tier_and_no_more() -> anyhow::Result<()> {
    let node = NodeProcess::dev().await?;
    for (tier, mebibytes) in [("free", 64), ("basic", 128)] {
        let tenant = register(&node.operator()?, tier, tier).await?;
        let allocated = upload(&tenant.client, "allocate", b"", &[]).await?;
        ensure!(allocated["outcome"] == "succeeded", "malloc fails and the program goes on: {allocated}");
        let got: u64 = allocated["stdout"].as_str().unwrap_or_default().trim().parse()?;
        // The rest goes to the program itself and to what its allocator cannot use of the memory it got.
        ensure!((mebibytes / 2..=mebibytes).contains(&got), "{tier}: {got} MiB");
        let peak = allocated["usage"]["peak_memory_bytes"].as_u64().unwrap_or_default();
        ensure!(peak > got << 20 && peak <= mebibytes << 20, "{tier}: {peak} bytes at most");
    }
    Ok(())
}
