#!/usr/bin/env bash
# The quick start with curl: publish a module, run it, upload one with its input, list what ran.
set -euo pipefail

send() {
  curl --fail-with-body -sS -H "Authorization: Bearer $KEY" "$@"
}

send --upload-file "$MODULE" "$URL/v1/modules/curl" | grep -q '"name":"curl"'
send --data-binary WasmWiz "$URL/v1/modules/curl/executions" | grep -qF 'Hello, WasmWiz!\n'
send -F "wasm=@$MODULE;filename=\"a \\\"name=input\\\"; b.wasm\"" -F input=form -F arg=-v "$URL/v1/executions" |
  grep -qF 'Hello, form!\n'
# What one accepts is asked for in two fields, and the bytes are not wanted.
send -H 'Accept: application/octet-stream;q=0' -H 'Accept: application/json' --data-binary json \
  "$URL/v1/modules/curl/executions" | grep -qF '"outcome":"succeeded"'
send -G --data-urlencode 'module=curl' --data-urlencode 'outcome=succeeded' "$URL/v1/executions" | grep -q '"items":\[{'
echo 'the quick start ran'
