//! What is a setting, and what is none.

use super::*;

fn loaded(toml: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wasmwiz.toml");
    std::fs::write(&path, toml).unwrap();
    Config::layered(&Config::default(), Some(&path), []).map(|loaded| loaded.config)
}

/// What a node makes of these variables over this file.
fn loaded_with(toml: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wasmwiz.toml");
    std::fs::write(&path, toml).unwrap();
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let loaded = Config::layered(&Config::default(), Some(&path), variables);
    loaded.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

#[test]
fn the_defaults_are_valid_and_survive_toml() {
    Config::default().check().unwrap();
    let written = Config::default().to_toml().unwrap();
    let read = loaded(&written).unwrap();
    assert_eq!(read.to_toml().unwrap(), written);
}

/// The variables that a rendered file gives its pods, as far as they are written there.
fn variables_of(manifest: &str) -> Vec<(&str, &str)> {
    let lines: Vec<_> = manifest.lines().map(str::trim).collect();
    let pair = |pair: &[&'_ str]| match pair {
        [name, value] => name.strip_prefix("- name: ").zip(value.strip_prefix("value: ")).is_some(),
        _ => false,
    };
    lines
        .windows(2)
        .filter(|lines| pair(lines))
        .map(|lines| {
            (lines[0].trim_start_matches("- name: "), lines[1].trim_start_matches("value: ").trim_matches('"'))
        })
        .filter(|(name, _)| name.starts_with("WASMWIZ_"))
        .collect()
}

#[test]
fn the_settings_of_the_manifests_are_settings() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::create_dir(secrets.path().join("auth")).unwrap();
    for name in ["operator-key", "pepper"] {
        std::fs::write(secrets.path().join("auth").join(name), "0123456789abcdef0123456789abcdef").unwrap();
    }
    let file = include_str!("../../../k8s/base/node/wasmwiz.toml");
    let file = &file.replace("/etc/wasmwiz", secrets.path().to_str().unwrap());
    for manifest in
        [include_str!("../../../k8s/staging-deployment.yaml"), include_str!("../../../k8s/production-deployment.yaml")]
    {
        let variables = variables_of(manifest);
        assert!(variables.len() > 5, "{variables:?}");
        let Loaded { config, .. } = loaded_with(file, &variables).unwrap();
        config.check().unwrap();
        assert_eq!(config.warnings(), Vec::<String>::new());
        assert_eq!(config.log.kind, LogKind::Jetstream);
    }
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let error = loaded("[gateway]\nlisten_adress = \"x\"\n").unwrap_err().to_string();
    assert!(error.contains("listen_adress"), "{error}");
}

#[test]
fn a_value_out_of_range_is_named_with_what_would_be_right() {
    let error = loaded("[tiers.free]\nexecutions_per_minute = 70000\n").unwrap_err().to_string();
    assert_eq!(error, "tiers.free.executions_per_minute is at most 60000; 0 means without limit");
    let error = loaded("[gateway.cors]\nallowed_origins = [\"*\"]\n").unwrap_err().to_string();
    assert!(error.starts_with("gateway.cors.allowed_origins names \"*\"; give origins"), "{error}");
    let error = loaded("[auth]\npepper = \"short\"\n").unwrap_err().to_string();
    assert_eq!(error, "auth.pepper is too short; give at least 32 random bytes");
}

#[test]
fn an_issuer_is_read_as_it_is_written_and_one_that_could_do_harm_is_refused() {
    let issuer = |url: &str| {
        format!(
            "[[gateway.tokens.issuers]]\nname = \"corp\"\nissuer = \"{url}\"\naudience = \"Wiz\"\n\
             tenant_claim = \"Org\"\ntenants = {{ Acme = \"t-1\" }}\nalgorithms = [\"RS256\"]\n\
             scopes = {{ \"Dev.Ops\" = [\"usage:read\"] }}\n"
        )
    };
    let config = loaded(&issuer("https://login.example/Realm")).unwrap();
    let read = &config.gateway.tokens.issuers[0];
    assert_eq!((read.issuer.as_str(), read.tenant_claim.as_deref()), ("https://login.example/Realm", Some("Org")));
    assert!(read.tenants.contains_key("Acme") && read.scopes.contains_key("Dev.Ops"), "{read:?}");
    assert_eq!(loaded(&config.to_toml().unwrap()).unwrap().gateway.tokens, config.gateway.tokens);
    let error = loaded(&issuer("http://login.example")).unwrap_err().to_string();
    assert!(error.starts_with("gateway.tokens.issuers[0] needs an https URL"), "{error}");
    assert!(loaded("[gateway.tokens]\nleeway_seconds = 61\n").is_err());
}

#[test]
fn a_log_on_jetstream_needs_its_servers_and_answers_before_the_region_does() {
    let log = |more: &str| loaded(&format!("[log]\nkind = \"jetstream\"\n[log.jetstream]\n{more}\n"));
    let error = log("").unwrap_err().to_string();
    assert!(error.starts_with("log.jetstream.nats.url is missing"), "{error}");
    let config = log("replicas = 3\nnats.url = \"nats://one:4222\"").unwrap();
    assert_eq!((config.log.kind, config.log.jetstream.replicas), (LogKind::Jetstream, 3));
    let error = log("append_within_ms = 10000\nnats.url = \"nats://one:4222\"").unwrap_err().to_string();
    assert!(error.contains("region.answer_within_ms"), "{error}");
}

#[test]
fn one_field_of_a_tier_is_changed_by_itself() {
    let config = loaded("[tiers.free]\nexecutions_per_minute = 60\n").unwrap();
    let expected = Policy::default().free;
    assert_eq!(config.tiers.free.executions_per_minute, 60);
    assert_eq!(config.tiers.free.wall_ms, expected.wall_ms);
}

/// Every text that tells people of variables.
const DOCUMENTS: [&str; 5] = [
    include_str!("../config.rs"),
    include_str!("../cli/node.rs"),
    include_str!("../cli/dev.rs"),
    include_str!("../../../README.md"),
    include_str!("../../../docs/ARCHITECTURE.md"),
];

/// The variables that a text names, as far as they name a key.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
    let rests = shipped.match_indices("WASMWIZ_").filter_map(|(at, _)| shipped.get(at..));
    let names = rests.filter_map(|rest| rest.split(|c: char| !c.is_ascii_uppercase() && c != '_').next());
    names.filter(|name| name.contains("__"))
}

#[test]
fn every_documented_variable_is_a_setting() {
    let documented: std::collections::BTreeSet<_> = DOCUMENTS.into_iter().flat_map(variables).collect();
    assert!(documented.contains("WASMWIZ_LISTEN__API"), "{documented:?}");
    for name in documented {
        // No setting takes this value, or it is a text: either way its key is known, or the error says that it is not.
        let error = loaded_with("", &[(name, "\u{1}")]).err().unwrap_or_default();
        assert!(!error.contains("unknown field"), "{name}: {error}");
    }
}

#[test]
fn a_variable_that_is_no_setting_is_named_once_as_it_stands_in_the_environment() {
    for (name, inner) in [
        ("WASMWIZ_LISTEN__NOWHERE", "nowhere"),
        ("WASMWIZ_NOWHERE__API", "nowhere"),
        ("WASMWIZ__LISTEN__API", "_listen"),
        ("WASMWIZ_LISTEN__", "unknown field ``"),
        ("WASMWIZ_LISTEN__TLS__NOWHERE", "nowhere"),
    ] {
        let error = loaded_with("", &[("WASMWIZ_LISTEN__API", "127.0.0.1:1"), (name, "x")]).unwrap_err();
        assert!(error.starts_with(&format!("{name} is wrong")) && error.contains(inner), "{error}");
        assert_eq!((error.matches("unknown field").count(), error.lines().count()), (1, 1), "{error}");
    }
    let error = loaded_with("", &[("WASMWIZ_LISTEN__API__PORT", "1")]).unwrap_err();
    assert!(error.starts_with("WASMWIZ_LISTEN__API__PORT is wrong: listen.api: "), "{error}");
    let error = loaded_with("", &[("WASMWIZ_LISTEN__API", "nowhere")]).unwrap_err();
    assert!(error.starts_with("WASMWIZ_LISTEN__API is wrong: listen.api: invalid socket address"), "{error}");
}

#[test]
fn a_text_stays_the_text_it_is_and_means_the_same_in_a_file() {
    let texts = ["2026", "007", "1e5", "true", "0x10", "+1", "nan", "12345678901234567890123456789012", " a\"b# "];
    for text in texts {
        let of_variable = loaded_with("", &[("WASMWIZ_TELEMETRY__FILTER", text)]).unwrap();
        assert_eq!(of_variable.config.telemetry.filter, text);
        let of_file = loaded(&format!("telemetry.filter = {}", toml::Value::from(text))).unwrap();
        assert_eq!(of_file.telemetry.filter, text);
    }
    let pepper = "12345678901234567890123456789012";
    let config = loaded_with("", &[("WASMWIZ_AUTH__PEPPER", pepper), ("WASMWIZ_NODE__NAME", "007")]).unwrap().config;
    assert_eq!((config.auth.pepper.unwrap().reveal(), config.node.name.as_str()), (pepper, "007"));
    let error = loaded_with("", &[("WASMWIZ_NODE__NAME", "2026.10")]).unwrap_err();
    assert!(error.starts_with("WASMWIZ_NODE__NAME is wrong: node.name: "), "{error}");
    let dir = loaded_with("", &[("WASMWIZ_NODE__DATA_DIR", "2026.10")]).unwrap().config.node.data_dir;
    assert_eq!(dir, PathBuf::from("2026.10"));
}

#[test]
fn a_number_in_a_file_is_no_text_and_its_value_is_not_told_where_it_is_a_secret() {
    let error = loaded("node.data_dir = 2026.10").unwrap_err().to_string();
    assert!(error.starts_with("node.data_dir in ") && error.contains("floating point"), "{error}");
    for secret in ["4242424242", "42.42", "true", "[4242]", "2042-04-02"] {
        let error = loaded(&format!("auth.pepper = {secret}")).unwrap_err().to_string();
        assert!(error.ends_with("is wrong: it is a text, in quotes"), "{error}");
    }
    for broken in ["auth.pepper = \"4242", "auth.pepper = 4242 4242", "[auth]\npepper = x4242"] {
        let error = loaded(broken).unwrap_err().to_string();
        assert!(error.contains("wasmwiz.toml, line ") && !error.contains("4242"), "{error}");
    }
}

#[test]
fn numbers_booleans_words_and_lists_of_variables_are_read_as_their_setting_takes_them() {
    let config = loaded_with(
        "",
        &[
            ("WASMWIZ_EXECUTOR__THREADS", "3"),
            ("WASMWIZ_EXECUTOR__TICK_MS", "1_000"),
            ("WASMWIZ_GATEWAY__TLS", "true"),
            ("WASMWIZ_LOG__KIND", "sqlite"),
            ("WASMWIZ_GATEWAY__CORS__ALLOWED_ORIGINS", "[\"https://one.example\", 'https://two.example']"),
            ("WASMWIZ_LISTEN__TLS__CERT_FILE", "007.pem"),
            ("WASMWIZ_LISTEN__TLS__KEY_FILE", "key.pem"),
        ],
    );
    let config = config.unwrap().config;
    assert_eq!((config.executor.threads, config.executor.tick_ms, config.gateway.tls), (3, 1_000, true));
    assert_eq!(config.gateway.cors.allowed_origins, ["https://one.example", "https://two.example"]);
    assert_eq!(config.listen.tls.unwrap().cert_file, PathBuf::from("007.pem"));
    for (name, value) in [
        ("WASMWIZ_EXECUTOR__THREADS", "many"),
        ("WASMWIZ_EXECUTOR__THREADS", "-1"),
        ("WASMWIZ_EXECUTOR__THREADS", "1.5"),
        ("WASMWIZ_GATEWAY__TLS", "perhaps"),
        ("WASMWIZ_LOG__KIND", "paper"),
        ("WASMWIZ_GATEWAY__CORS__ALLOWED_ORIGINS", "https://one.example"),
    ] {
        let error = loaded_with("", &[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name} is wrong: ")), "{error}");
    }
    let error = loaded_with("", &[("WASMWIZ_LISTEN__TLS__CERT_FILE", "a.pem")]).unwrap_err();
    assert_eq!(error, "WASMWIZ_LISTEN__TLS__CERT_FILE is wrong: listen.tls: missing field `key_file`");
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_the_default_and_it_is_told_which_did() {
    let file = "listen.api = \"127.0.0.1:1\"\nlisten.admin = \"127.0.0.1:2\"\nauth.pepper_file = \"/nowhere\"\n";
    let pepper = ("WASMWIZ_AUTH__PEPPER", "0123456789abcdef0123456789abcdef");
    let loaded = loaded_with(file, &[("WASMWIZ_LISTEN__API", "0.0.0.0:1"), pepper]).unwrap();
    assert_eq!(loaded.config.listen.api.to_string(), "0.0.0.0:1");
    let shown = loaded.to_toml().unwrap();
    for line in [
        "api = \"0.0.0.0:1\" # from WASMWIZ_LISTEN__API\n",
        "admin = \"127.0.0.1:2\" # from the file\n",
        "pepper = \"***\" # from WASMWIZ_AUTH__PEPPER\n",
        "\nname = \"node-1\"\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let error = loaded_with("", &[("WASMWIZ_TIERS__FREE__WRITES_PER_MINUTE", "70000")]).unwrap_err();
    let problem = "tiers.free.writes_per_minute is at most 60000; 0 means without limit";
    assert_eq!(error, format!("WASMWIZ_TIERS__FREE__WRITES_PER_MINUTE is wrong: {problem}"));
}

#[test]
fn a_secret_is_never_printed() {
    let config = loaded("[auth]\noperator_key = \"ww_canary\"\n").unwrap();
    assert!(!config.to_toml().unwrap().contains("canary"));
    assert!(!format!("{config:?}").contains("canary"));
    assert_eq!(config.auth.operator_key.unwrap().reveal(), "ww_canary");
}

#[test]
fn a_secret_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("pepper");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let config = loaded(&format!("[auth]\npepper_file = {secret:?}\n")).unwrap();
    assert_eq!(config.auth.pepper.unwrap().reveal(), "0123456789abcdef0123456789abcdef");
    let error = loaded("[auth]\npepper_file = \"/does/not/exist\"\n").unwrap_err().to_string();
    assert_eq!(error, "/does/not/exist cannot be read; auth.pepper_file names it");
}

#[test]
fn settings_that_do_not_go_with_each_other_are_refused() {
    for (text, key) in [
        ("executor.guests_max = 0", "executor.threads and executor.guests_max"),
        ("executor.compile.small_cpu_s = 11", "executor.compile.small_cpu_s"),
        ("executor.compile.wall_ms = 9999", "executor.compile.wall_ms"),
        ("executor.memory_wait_ms = 30000", "executor.memory_wait_ms"),
        ("tiers.lost_grace_ms = 35000", "executor.memory_wait_ms"),
        ("gateway.server.http2_idle_frames_max = 99", "gateway.server.http2_idle_frames_max"),
        ("gateway.server.http2_idle_frames_per_second = 0", "gateway.server.http2_idle_frames_per_second"),
        ("tiers.free.storage_bytes = 8388607", "tiers.free.storage_bytes"),
        ("log.sqlite.max_bytes = 0", "log.sqlite.max_bytes"),
    ] {
        let error = loaded(text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
    loaded("executor.memory_wait_ms = 29999").unwrap();
    loaded("tiers.free.storage_bytes = 8388608").unwrap();
    assert_eq!(
        loaded_with("", &[("WASMWIZ_LOG__SQLITE__MAX_BYTES", "1")]).unwrap().config.log.sqlite.max_bytes,
        Some(1)
    );
}
