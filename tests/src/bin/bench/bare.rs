//! What the node is measured against: the same module on the same engine settings, and nothing recorded.

use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use poem::{
    EndpointExt as _, Server, handler,
    listener::{Acceptor as _, Listener as _, TcpListener},
    web::Data,
};
use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::{
    WasiCtxBuilder,
    p1::WasiP1Ctx,
    p2::pipe::{MemoryInputPipe, MemoryOutputPipe},
};
use wasmwiz_actors::executor::{ExecutorConfig, Executors};

const ECHO: &str = include_str!("../../../../examples/echo.wat");

/// Standard output kept, in bytes: as the node keeps for the development tenant.
const STDOUT_BYTES: usize = 16 << 20;

#[derive(Clone)]
struct Guest {
    engine: Engine,
    module: InstancePre<WasiP1Ctx>,
}

impl Guest {
    fn compile() -> wasmtime::Result<Self> {
        let engine = Engine::new(&Executors::engine_settings(&ExecutorConfig::default()))?;
        let module = Module::new(&engine, wat::parse_str(ECHO)?)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut WasiP1Ctx| guest)?;
        Ok(Self { module: linker.instantiate_pre(&module)?, engine })
    }

    async fn run(&self, input: Bytes) -> wasmtime::Result<Bytes> {
        let output = MemoryOutputPipe::new(STDOUT_BYTES);
        let wasi = WasiCtxBuilder::new().stdin(MemoryInputPipe::new(input)).stdout(output.clone()).build_p1();
        let mut store = Store::new(&self.engine, wasi);
        // No ticker runs here, so any deadline is never reached.
        store.set_epoch_deadline(1);
        let instance = self.module.instantiate_async(&mut store).await?;
        instance.get_typed_func::<(), ()>(&mut store, "_start")?.call_async(&mut store, ()).await?;
        drop(store);
        Ok(output.contents())
    }
}

fn said(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

#[handler]
async fn echo(guest: Data<&Guest>, body: Bytes) -> poem::Result<Vec<u8>> {
    let output = guest
        .run(body)
        .await
        .map_err(|error| poem::Error::from_string(error.to_string(), http::StatusCode::INTERNAL_SERVER_ERROR))?;
    Ok(output.into())
}

/// Serves the guest under `POST /` on a free port, which is printed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await?;
        let address = acceptor.local_addr().into_iter().next().context("an address")?;
        println!("{}", address.as_socket_addr().context("a TCP address")?);
        Ok(Server::new_with_acceptor(acceptor).run(poem::post(echo).data(Guest::compile().map_err(said)?)).await?)
    })
}

/// Microseconds of one run in a loop on one thread: instantiate, run, drop.
pub(crate) fn raw_loop_us() -> anyhow::Result<f64> {
    const RUNS: u32 = 20_000;
    let guest = Guest::compile().map_err(said)?;
    let input = Bytes::from(vec![b'x'; 1_024]);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for _ in 0..RUNS / 10 {
            guest.run(input.clone()).await.map_err(said)?;
        }
        let begin = Instant::now();
        for _ in 0..RUNS {
            guest.run(input.clone()).await.map_err(said)?;
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(RUNS))
    })
}
