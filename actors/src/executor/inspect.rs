//! Reads an upload before anything expensive is done with it: format, limits, imports, and all rules of WebAssembly.
//!
//! One pass over the bytes. Each limit is checked before the validator sees the section, and is far below the validator's
//! own: what passes here compiles in bounded memory.

use wasmparser::{
    BinaryReader, Chunk, ElementItems, Encoding, ExternalKind, FuncType, FuncValidatorAllocations, FunctionBody,
    Operator, Parser, Payload, TypeRef, ValidPayload, Validator,
};
use wasmwiz_events::module::Kind;

use super::{
    Rejection,
    engine::{FEATURES, IMPORT_MODULE, Imports, TABLE_ELEMENTS_MAX},
};
use crate::json::escaped_size;

/// Functions, imported ones not counted. Large interpreters have some ten thousand.
const FUNCTIONS_MAX: u64 = 20_000;
/// Types of functions.
const TYPES_MAX: u64 = 5_000;
/// Globals.
const GLOBALS_MAX: u64 = 2_000;
/// Imports. WASI preview 1 has 46 functions.
const IMPORTS_MAX: u64 = 256;
/// Exports.
const EXPORTS_MAX: u64 = 1_000;
/// Data segments.
const DATA_SEGMENTS_MAX: u64 = 2_000;
/// Bytes in all data segments together.
const DATA_BYTES_MAX: u64 = 64 << 20;
/// Element segments.
const ELEMENT_SEGMENTS_MAX: u64 = 200;
/// Elements in all element segments together: no more than fit the one table, some twice.
const ELEMENTS_MAX: u64 = 2 * TABLE_ELEMENTS_MAX as u64;
/// Bytes of one function's body. The compiler's time grows faster than the body.
const BODY_BYTES_MAX: u64 = 256 << 10;
/// A function of so many bytes counts twice, one twice as long three times, and so on: the longer it is, the longer
/// each byte takes.
const LONG_BODY_BYTES: u64 = 8 << 10;
/// What a function costs beside its bytes, as if it were so many more.
const FUNCTION_BYTES: u64 = 64;
/// Locals of one function.
const LOCALS_MAX: u64 = 2_000;
/// Parameters, and results, of one function.
const PARAMS_MAX: u64 = 64;
/// Targets of one `br_table`.
const TARGETS_MAX: u64 = 4_096;
/// Blocks inside each other. Compilers make one of each case of a `switch`; the largest interpreters have some hundred.
const NESTING_MAX: u64 = 2_000;
/// Bytes of one name. The mangled names of C++ templates and Rust generics stay below when they are exported at all.
const NAME_BYTES_MAX: u64 = 256;
/// Bytes of the names of all exports together, as JSON writes them: they are in the event.
const NAMES_BYTES_MAX: u64 = 128 << 10;
/// Bytes in all custom sections together. They are not compiled.
const CUSTOM_BYTES_MAX: u64 = 32 << 20;

/// What an upload is, as the record of its publication says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Core module or component.
    pub kind: Kind,
    /// Its imports as `module.name`.
    pub imports: Vec<String>,
    /// The names of its exports.
    pub exports: Vec<String>,
    /// How much there is to compile: bytes of code, of which those in long functions count for more.
    pub weight: u64,
}

/// Reads `wasm`. Without `known` imports are not compared: the executor does that once before it compiles.
pub(crate) fn inspect(wasm: &[u8], known: Option<&Imports>, memory_max_bytes: u64) -> Result<Inspected, Rejection> {
    kind(wasm)?;
    let mut pass = Pass::new(known, memory_max_bytes);
    let mut parser = Parser::new(0);
    parser.set_features(FEATURES);
    let mut rest = wasm;
    loop {
        let (used, payload) = match parser.parse(rest, true).map_err(invalid)? {
            Chunk::Parsed { consumed, payload } => (consumed, payload),
            Chunk::NeedMoreData(_) => return Err(Rejection::Truncated { offset: wasm.len() as u64 }),
        };
        rest = rest.get(used..).unwrap_or_default();
        pass.limits(&payload)?;
        match pass.validator.payload(&payload).map_err(invalid)? {
            ValidPayload::Ok | ValidPayload::Parser(_) => {}
            ValidPayload::Func(function, body) => pass.body(function, &body)?,
            ValidPayload::End(_) => break,
        }
        pass.read(payload)?;
    }
    if !rest.is_empty() {
        let offset = (wasm.len() - rest.len()) as u64;
        return Err(Rejection::Invalid { message: "bytes after the end of the module".into(), offset });
    }
    pass.finish()
}

/// The bytes of `wasm` without its custom sections: names and debug information, which no guest needs to run.
pub(crate) fn without_custom_sections(wasm: &[u8]) -> Result<Vec<u8>, Rejection> {
    let mut stripped = Vec::with_capacity(wasm.len());
    let mut copied = 0;
    let mut reader = BinaryReader::new(wasm, 0);
    reader.read_bytes(8).map_err(invalid)?;
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8().map_err(invalid)?;
        let size = reader.read_var_u32().map_err(invalid)?;
        reader.read_bytes(size as usize).map_err(invalid)?;
        if id == 0 {
            stripped.extend_from_slice(wasm.get(copied..start).unwrap_or_default());
            copied = reader.original_position();
        }
    }
    stripped.extend_from_slice(wasm.get(copied..).unwrap_or_default());
    Ok(stripped)
}

/// Is it a core module, by its first bytes? Text and compiled code are never handed to the engine.
fn kind(wasm: &[u8]) -> Result<(), Rejection> {
    const MAGIC: &[u8] = b"\0asm";
    if !wasm.starts_with(MAGIC) {
        return Err(match wasm {
            [0x7f, b'E', b'L', b'F', ..] => Rejection::Precompiled,
            [] => Rejection::Truncated { offset: 0 },
            short if MAGIC.starts_with(short) => Rejection::Truncated { offset: short.len() as u64 },
            _ if is_text(wasm) => Rejection::Text,
            _ => Rejection::NotWasm,
        });
    }
    match wasm.get(4..8) {
        None => Err(Rejection::Truncated { offset: wasm.len() as u64 }),
        Some([_, _, 1, 0]) => Err(Rejection::Component),
        Some(_) => Ok(()),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    [b"(module".as_slice(), b"(component", b"(;", b";;"].iter().any(|head| text.starts_with(head))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err asks for")]
fn invalid(error: wasmparser::Error) -> Rejection {
    let offset = error.offset() as u64;
    if error.message().starts_with("unexpected end") {
        return Rejection::Truncated { offset };
    }
    Rejection::Invalid { message: error.message().chars().take(300).collect(), offset }
}

fn at_most(what: &'static str, limit: u64, found: u64) -> Result<(), Rejection> {
    if found > limit { Err(Rejection::OverLimit { what, limit, found }) } else { Ok(()) }
}

struct Pass<'a> {
    known: Option<&'a Imports>,
    memory_max_bytes: u64,
    validator: Validator,
    allocations: FuncValidatorAllocations,
    types: Vec<FuncType>,
    /// The types of all functions, imported ones first, as indices of `types`.
    functions: Vec<u32>,
    imports: Vec<String>,
    exports: Vec<String>,
    names_bytes: u64,
    custom_bytes: u64,
    data_bytes: u64,
    elements: u64,
    weight: u64,
    starts: bool,
}

impl<'a> Pass<'a> {
    fn new(known: Option<&'a Imports>, memory_max_bytes: u64) -> Self {
        Self {
            known,
            memory_max_bytes,
            validator: Validator::new_with_features(FEATURES),
            allocations: FuncValidatorAllocations::default(),
            types: Vec::new(),
            functions: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            names_bytes: 0,
            custom_bytes: 0,
            data_bytes: 0,
            elements: 0,
            weight: 0,
            starts: false,
        }
    }

    /// What a section says about its own size, before anybody reads it.
    fn limits(&mut self, payload: &Payload<'_>) -> Result<(), Rejection> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => Err(Rejection::Component),
            Payload::TypeSection(section) => at_most("types", TYPES_MAX, section.count().into()),
            Payload::ImportSection(section) => at_most("imports", IMPORTS_MAX, section.count().into()),
            Payload::FunctionSection(section) => at_most("functions", FUNCTIONS_MAX, section.count().into()),
            Payload::TableSection(section) => at_most("tables", 1, section.count().into()),
            Payload::MemorySection(section) => at_most("memories", 1, section.count().into()),
            Payload::GlobalSection(section) => at_most("globals", GLOBALS_MAX, section.count().into()),
            Payload::ExportSection(section) => at_most("exports", EXPORTS_MAX, section.count().into()),
            Payload::ElementSection(section) => {
                at_most("element segments", ELEMENT_SEGMENTS_MAX, section.count().into())
            }
            Payload::DataSection(section) => at_most("data segments", DATA_SEGMENTS_MAX, section.count().into()),
            Payload::DataCountSection { count, .. } => at_most("data segments", DATA_SEGMENTS_MAX, (*count).into()),
            Payload::CodeSectionEntry(body) => {
                at_most("bytes in one function", BODY_BYTES_MAX, body.range().len() as u64)
            }
            Payload::CustomSection(section) => {
                self.custom_bytes += section.data().len() as u64;
                at_most("bytes in custom sections", CUSTOM_BYTES_MAX, self.custom_bytes)
            }
            _ => Ok(()),
        }
    }

    /// What is in a section that is known to be valid.
    fn read(&mut self, payload: Payload<'_>) -> Result<(), Rejection> {
        match payload {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    let ty = ty.map_err(invalid)?;
                    at_most("parameters of one function", PARAMS_MAX, ty.params().len() as u64)?;
                    at_most("results of one function", PARAMS_MAX, ty.results().len() as u64)?;
                    self.types.push(ty);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    self.import(&import.map_err(invalid)?)?;
                }
            }
            Payload::FunctionSection(section) => {
                for index in section {
                    self.functions.push(index.map_err(invalid)?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table = table.map_err(invalid)?;
                    at_most("table elements", TABLE_ELEMENTS_MAX as u64, table.ty.initial)?;
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let bytes = memory.map_err(invalid)?.initial.saturating_mul(64 << 10);
                    at_most("bytes of initial memory", self.memory_max_bytes, bytes)?;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.export(&export.map_err(invalid)?)?;
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    self.elements += u64::from(match element.map_err(invalid)?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    });
                    at_most("elements in element segments", ELEMENTS_MAX, self.elements)?;
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    self.data_bytes += data.map_err(invalid)?.data.len() as u64;
                    at_most("bytes in data segments", DATA_BYTES_MAX, self.data_bytes)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, import: &wasmparser::Import<'_>) -> Result<(), Rejection> {
        let (module, name) = (import.module, import.name);
        at_most("bytes in one name", NAME_BYTES_MAX, module.len().max(name.len()) as u64)?;
        let unknown = || Rejection::UnknownImport { module: module.to_owned(), name: name.to_owned() };
        let (TypeRef::Func(index) | TypeRef::FuncExact(index)) = import.ty else { return Err(unknown()) };
        self.functions.push(index);
        self.imports.push(format!("{module}.{name}"));
        at_most("imports", IMPORTS_MAX, self.imports.len() as u64)?;
        let Some(known) = self.known else { return Ok(()) };
        let expected = known.get(name).filter(|_| module == IMPORT_MODULE).ok_or_else(unknown)?;
        let found = self.types.get(index as usize).ok_or_else(unknown)?;
        if found.params() == expected.params && found.results() == expected.results {
            return Ok(());
        }
        Err(Rejection::WrongImportType {
            module: module.to_owned(),
            name: name.to_owned(),
            expected: signature(&expected.params, &expected.results),
            found: signature(found.params(), found.results()),
        })
    }

    fn export(&mut self, export: &wasmparser::Export<'_>) -> Result<(), Rejection> {
        at_most("bytes in one name", NAME_BYTES_MAX, export.name.len() as u64)?;
        self.names_bytes += escaped_size(export.name) as u64;
        at_most("bytes in the names of exports", NAMES_BYTES_MAX, self.names_bytes)?;
        self.exports.push(export.name.to_owned());
        if export.name == "_start" && matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact) {
            let index = self.functions.get(export.index as usize);
            let ty = index.and_then(|index| self.types.get(*index as usize));
            self.starts = ty.is_some_and(|ty| ty.params().is_empty() && ty.results().is_empty());
        }
        Ok(())
    }

    fn body(
        &mut self,
        function: wasmparser::FuncToValidate<wasmparser::ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), Rejection> {
        let bytes = body.range().len() as u64;
        self.weight += FUNCTION_BYTES + bytes + bytes * bytes / LONG_BODY_BYTES;
        let mut locals = 0_u64;
        for group in body.get_locals_reader().map_err(invalid)? {
            locals += u64::from(group.map_err(invalid)?.0);
            at_most("locals of one function", LOCALS_MAX, locals)?;
        }
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        validator.read_locals(&mut body.get_binary_reader()).map_err(invalid)?;
        let mut operators = body.get_operators_reader().map_err(invalid)?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset().map_err(invalid)?;
            if let Operator::BrTable { targets } = &operator {
                at_most("targets of one br_table", TARGETS_MAX, targets.len().into())?;
            }
            validator.op(offset, &operator).map_err(invalid)?;
            at_most("blocks inside each other", NESTING_MAX, validator.control_stack_height().into())?;
        }
        operators.finish().map_err(invalid)?;
        self.allocations = validator.into_allocations();
        Ok(())
    }

    fn finish(self) -> Result<Inspected, Rejection> {
        if !self.starts {
            return Err(Rejection::NoStart);
        }
        Ok(Inspected { kind: Kind::Core, imports: self.imports, exports: self.exports, weight: self.weight })
    }
}

fn signature(params: &[wasmparser::ValType], results: &[wasmparser::ValType]) -> String {
    let list = |types: &[wasmparser::ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("({}) -> ({})", list(params), list(results))
}
