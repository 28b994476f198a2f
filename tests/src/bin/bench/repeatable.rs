//! What it costs a guest that its end can be run again: the same loops on engines that differ in one setting each.

use std::time::Instant;

use wasmtime::{Config, Engine, Linker, Module, Store};
use wasmwiz_actors::executor::{ExecutorConfig, Executors};

/// How often each is run; the quickest run counts, as the machine's other work only ever makes one slower.
const ROUNDS: usize = 9;

/// Guests that do one thing each, for about 50 ms.
const GUESTS: [(&str, &str); 3] = [
    (
        "float loop",
        r#"(module (func (export "_start") (local $n i32) (local $x f64) (local $y f64)
             (local.set $n (i32.const 8000000)) (local.set $x (f64.const 1.5))
             (loop $more
               (local.set $y (f64.add (f64.mul (local.get $y) (f64.const 0.5)) (local.get $x)))
               (local.set $x (f64.sub (f64.const 3) (f64.mul (local.get $x) (f64.const 0.99))))
               (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
             (if (f64.eq (local.get $y) (f64.const 7)) (then (unreachable)))))"#,
    ),
    (
        "integer loop",
        r#"(module (func (export "_start") (local $n i32) (local $x i64)
             (local.set $n (i32.const 20000000)) (local.set $x (i64.const 88172645463325252))
             (loop $more
               (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
               (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
               (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
               (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
             (if (i64.eqz (local.get $x)) (then (unreachable)))))"#,
    ),
    (
        "recursion",
        r#"(module
             (func $fib (param $n i32) (result i32)
               (if (result i32) (i32.lt_u (local.get $n) (i32.const 2)) (then (local.get $n))
                 (else (i32.add (call $fib (i32.sub (local.get $n) (i32.const 1)))
                                (call $fib (i32.sub (local.get $n) (i32.const 2)))))))
             (func (export "_start") (drop (call $fib (i32.const 31)))))"#,
    ),
];

/// One guest: its quickest run on each engine, in milliseconds.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) guest: &'static str,
    /// The node's settings, but NaNs as the processor makes them.
    pub(crate) any_nan_ms: f64,
    /// As the node runs it.
    pub(crate) plain_ms: f64,
    /// As the node runs it with fuel.
    pub(crate) metered_ms: f64,
}

/// Measures all of them, the engines by turns.
pub(crate) fn costs() -> wasmtime::Result<Vec<Cost>> {
    let node = || Executors::engine_settings(&ExecutorConfig { guests_max: 2, ..ExecutorConfig::default() });
    let with = |change: fn(&mut Config) -> &mut Config| {
        let mut settings = node();
        change(&mut settings);
        Engine::new(&settings)
    };
    let engines = [
        with(|settings| settings.cranelift_nan_canonicalization(false))?,
        with(|settings| settings)?,
        with(|settings| settings.consume_fuel(true))?,
    ];
    let one = |(guest, source): (&'static str, &str)| {
        let wasm = wat::parse_str(source)?;
        let modules = engines.iter().map(|engine| Module::new(engine, &wasm)).collect::<wasmtime::Result<Vec<_>>>()?;
        let mut quickest = [f64::INFINITY; 3];
        for _ in 0..ROUNDS {
            for (module, quickest) in modules.iter().zip(&mut quickest) {
                *quickest = quickest.min(run_ms(module)?);
            }
        }
        let [any_nan_ms, plain_ms, metered_ms] = quickest;
        Ok(Cost { guest, any_nan_ms, plain_ms, metered_ms })
    };
    GUESTS.into_iter().map(one).collect()
}

fn run_ms(module: &Module) -> wasmtime::Result<f64> {
    let engine = module.engine();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let mut store = Store::new(engine, ());
        // No ticker runs here, so any deadline is never reached.
        store.set_epoch_deadline(1);
        if engine.get_consume_fuel() {
            store.set_fuel(u64::MAX)?;
        }
        let instance = Linker::new(engine).instantiate_async(&mut store, module).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        let begin = Instant::now();
        start.call_async(&mut store, ()).await?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    })
}
