//! Bulk operations on memory in bounded pieces: `memory.fill` and `memory.copy` of a gibibyte are one instruction, and nothing
//! ends a guest, or gives another its turn, within one.
//!
//! Before a module is compiled, each of the two becomes a call of a function that is added at its end. That one does the
//! same in pieces of [`PIECE_BYTES`], in a loop, and at every round of a loop a guest can be stopped:
//!
//! ```text
//! fill(to, value, count):  out of bounds?  then the whole operation, which traps and writes nothing
//!                          while count > a piece:  a piece, and on
//!                          the rest
//! ```
//! A copy whose pieces would overwrite what is still to be read goes from the end to the beginning. What a guest can see
//! is the same; what it is charged, with fuel, is a few units a piece. Other bulk operations are bounded by the size of a
//! module or of a table.

use std::borrow::Cow;

use wasm_encoder::{
    BlockType, CodeSection, Function, FunctionSection, Instruction, Module, TypeSection, ValType,
    reencode::{self, Reencode, utils},
};
use wasmparser::{CodeSectionReader, FunctionSectionReader, Operator, Parser, Payload, TypeRef, TypeSectionReader};

/// The most bytes of one operation: what a machine fills in some tens of microseconds when the pages are there, and in a
/// few hundred when they are not.
pub(crate) const PIECE_BYTES: i32 = 1 << 20;

/// Why a module cannot be written anew. One that the engine accepts always can.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    /// It is no module.
    #[error("{0}")]
    Malformed(#[from] wasmparser::Error),
    /// It cannot be encoded.
    #[error("it cannot be encoded again: {0}")]
    Encoding(String),
}

/// The module with its bulk operations in pieces; as it is when it has none.
pub(crate) fn in_pieces(wasm: &[u8]) -> Result<Cow<'_, [u8]>, BulkError> {
    let Some(mut rewriting) = Rewriting::of(wasm)? else { return Ok(Cow::Borrowed(wasm)) };
    let mut module = Module::new();
    let written = rewriting.parse_core_module(&mut module, Parser::new(0), wasm);
    written.map_err(|error| BulkError::Encoding(error.to_string()))?;
    Ok(Cow::Owned(module.finish()))
}

/// Where the added functions and their type are.
struct Rewriting {
    type_index: u32,
    fill: u32,
    copy: u32,
}

impl Rewriting {
    /// Looks through a module; `None` when it has no such operation.
    fn of(wasm: &[u8]) -> Result<Option<Self>, BulkError> {
        let (mut types, mut functions, mut has_any) = (0, 0, false);
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                // Without garbage collection, a group has one type.
                Payload::TypeSection(section) => types = section.count(),
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        functions += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::FunctionSection(section) => functions += section.count(),
                Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader()?;
                    while !has_any && !operators.eof() {
                        has_any = is_bulk(&operators.read()?);
                    }
                }
                _ => {}
            }
        }
        Ok(has_any.then_some(Self { type_index: types, fill: functions, copy: functions.saturating_add(1) }))
    }
}

const fn is_bulk(operator: &Operator<'_>) -> bool {
    matches!(operator, Operator::MemoryFill { .. } | Operator::MemoryCopy { .. })
}

impl Reencode for Rewriting {
    type Error = std::convert::Infallible;

    fn instruction<'a>(&mut self, operator: Operator<'a>) -> Result<Instruction<'a>, reencode::Error> {
        match operator {
            Operator::MemoryFill { .. } => Ok(Instruction::Call(self.fill)),
            Operator::MemoryCopy { .. } => Ok(Instruction::Call(self.copy)),
            other => utils::instruction(self, other),
        }
    }

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: TypeSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([ValType::I32; 3], []);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_function_section(self, functions, section)?;
        functions.function(self.type_index).function(self.type_index);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_code_section(self, code, section)?;
        code.function(&fill()).function(&copy());
        Ok(())
    }
}

/// The parameters of both functions. Of the second, a fill has a value and a copy has a place.
const TO: u32 = 0;
const FROM: u32 = 1;
const COUNT: u32 = 2;

/// `memory.fill` of all, or of a piece that begins `TO`.
fn fill() -> Function {
    let whole = [Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::LocalGet(COUNT), MEMORY_FILL];
    let piece =
        [Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::I32Const(PIECE_BYTES), MEMORY_FILL];
    let mut function = Function::new([]);
    traps(&mut function, &[TO], &whole);
    forward(&mut function, &piece, &[TO]);
    of(&mut function, &whole);
    function.instruction(&Instruction::End);
    function
}

/// `memory.copy`, from the end where `TO` lies behind `FROM`: else a piece would be written over what is still to be read.
fn copy() -> Function {
    let whole = [Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::LocalGet(COUNT), MEMORY_COPY];
    let piece =
        [Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::I32Const(PIECE_BYTES), MEMORY_COPY];
    let last = |at: u32| [Instruction::LocalGet(at), Instruction::LocalGet(COUNT), Instruction::I32Add];
    let mut function = Function::new([]);
    traps(&mut function, &[TO, FROM], &whole);
    of(&mut function, &[Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::I32GtU]);
    of(&mut function, &[Instruction::If(BlockType::Empty), Instruction::Loop(BlockType::Empty)]);
    is_more_than_a_piece(&mut function);
    // What is left is counted down, and the piece is what lies behind it.
    step(&mut function, COUNT, Instruction::I32Sub);
    of(&mut function, &last(TO));
    of(&mut function, &last(FROM));
    of(&mut function, &[Instruction::I32Const(PIECE_BYTES), MEMORY_COPY, Instruction::Br(1)]);
    of(&mut function, &[Instruction::End, Instruction::End, Instruction::Else]);
    forward(&mut function, &piece, &[TO, FROM]);
    function.instruction(&Instruction::End);
    of(&mut function, &whole);
    function.instruction(&Instruction::End);
    function
}

const MEMORY_FILL: Instruction<'static> = Instruction::MemoryFill(0);
const MEMORY_COPY: Instruction<'static> = Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 };

fn of(function: &mut Function, instructions: &[Instruction<'_>]) {
    for instruction in instructions {
        function.instruction(instruction);
    }
}

/// Where a range that begins in one of `at` ends beyond the memory, does the whole operation: it traps before it writes.
fn traps(function: &mut Function, at: &[u32], whole: &[Instruction<'_>]) {
    for begin in at {
        of(function, &[Instruction::LocalGet(*begin), Instruction::I64ExtendI32U]);
        of(function, &[Instruction::LocalGet(COUNT), Instruction::I64ExtendI32U, Instruction::I64Add]);
        of(function, &[Instruction::MemorySize(0), Instruction::I64ExtendI32U, Instruction::I64Const(16)]);
        of(function, &[Instruction::I64Shl, Instruction::I64GtU, Instruction::If(BlockType::Empty)]);
        of(function, whole);
        function.instruction(&Instruction::End);
    }
}

/// Does pieces from the beginning on while more than one is left.
fn forward(function: &mut Function, piece: &[Instruction<'_>], at: &[u32]) {
    function.instruction(&Instruction::Loop(BlockType::Empty));
    is_more_than_a_piece(function);
    of(function, piece);
    for begin in at {
        step(function, *begin, Instruction::I32Add);
    }
    step(function, COUNT, Instruction::I32Sub);
    of(function, &[Instruction::Br(1), Instruction::End, Instruction::End]);
}

fn is_more_than_a_piece(function: &mut Function) {
    of(function, &[Instruction::LocalGet(COUNT), Instruction::I32Const(PIECE_BYTES), Instruction::I32GtU]);
    function.instruction(&Instruction::If(BlockType::Empty));
}

/// Moves a place, or what is left, by a piece.
fn step(function: &mut Function, local: u32, by: Instruction<'_>) {
    of(function, &[Instruction::LocalGet(local), Instruction::I32Const(PIECE_BYTES), by, Instruction::LocalSet(local)]);
}

#[cfg(test)]
mod tests;
