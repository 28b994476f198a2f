//! Tokens that are forged in one place each, and those that are as they should be.

use super::{forge::encoded, *};

fn header(name: &str, value: Value) -> impl Fn(&mut Forge<'_>) + use<> {
    let name = name.to_owned();
    move |forge| forge.header[&name] = value.clone()
}

type Change<'a> = Box<dyn Fn(&mut Forge<'a>) + 'a>;

fn change<'a>(change: impl Fn(&mut Forge<'a>) + 'a) -> Change<'a> {
    Box::new(change)
}

macro_rules! changes {
    ($($name:literal => $change:expr,)*) => { vec![$(($name, change($change))),*] };
}

#[tokio::test]
async fn a_token_that_is_as_it_should_be_is_let_in() {
    let setting = Setting::new(without_limits()).await;
    let now = forge::now();
    let cases: Vec<(&str, Change<'_>)> = changes! {
        "as the platform signs it" => |_| {},
        "a type with its prefix" => header("typ", json!("application/at+jwt")),
        "a type in capitals" => header("typ", json!("AT+JWT")),
        "an audience among others" => claim("aud", json!(["them", "wasmwiz"])),
        "no time of beginning" => |forge| drop(forge.claims.as_object_mut().unwrap().remove("nbf")),
        "a clock that is a little behind" => |forge| {
            forge.claims["iat"] = json!(now + 10);
            forge.claims["nbf"] = json!(now + 10);
        },
        "over for less than the leeway" => |forge| {
            forge.claims["iat"] = json!(now - 900);
            forge.claims["nbf"] = json!(now - 900);
            forge.claims["exp"] = json!(now - 5);
        },
        "a scope of another version" => claim("scope", json!("modules:read galaxies:read")),
        "a claim that nobody reads" => claim("extra", json!({"a": [1, {"b": null}], "c": 1.5})),
        "signed by the key before" => |forge| {
            forge.header["kid"] = json!(setting.older.kid);
            forge.signer = &setting.older;
        },
    };
    for (name, change) in cases {
        assert_eq!(setting.status(&setting.forge().with(change).token()).await, 200, "{name}");
    }
}

#[tokio::test]
async fn a_token_with_a_wrong_header_is_not_let_in() {
    let setting = Setting::new(without_limits()).await;
    let (_, jwks) = read(setting.node.get("/.well-known/jwks.json", "")).await;
    let own = Signer::ed25519_of(&keyring::draw().unwrap());
    let own_jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": own.x(), "kid": own.kid});
    let hmac = |secret: &[u8]| Signer::hmac(secret, &setting.signer.kid);
    let by_public_key = [
        hmac(&setting.signer.public()),
        hmac(setting.signer.x().as_bytes()),
        hmac(jwks["keys"][0].to_string().as_bytes()),
        hmac(jwks.to_string().as_bytes()),
        hmac(b""),
        hmac(b"secret"),
    ];
    let without =
        |name: &'static str| move |forge: &mut Forge<'_>| drop(forge.header.as_object_mut().unwrap().remove(name));
    let signed_by = |signer: &'_ Signer| {
        let kid = json!(signer.kid);
        move |forge: &mut Forge<'_>| forge.header["kid"] = kid.clone()
    };
    let cases: Vec<(&str, Change<'_>)> = changes! {
        "no algorithm" => without("alg"),
        "algorithm none" => header("alg", json!("none")),
        "algorithm None" => header("alg", json!("None")),
        "algorithm NONE" => header("alg", json!("NONE")),
        "algorithm nOnE" => header("alg", json!("nOnE")),
        "no text as algorithm" => header("alg", json!(["EdDSA"])),
        "algorithm in another case" => header("alg", json!("eddsa")),
        "another name of the algorithm" => header("alg", json!("Ed25519")),
        "a blank after the algorithm" => header("alg", json!("EdDSA ")),
        "RS256 over an Ed25519 signature" => header("alg", json!("RS256")),
        "ES256 over an Ed25519 signature" => header("alg", json!("ES256")),
        "HS256 over an Ed25519 signature" => header("alg", json!("HS256")),
        "no name of a key" => without("kid"),
        "an empty name of a key" => header("kid", json!("")),
        "a name of no key" => header("kid", json!("unknown")),
        "a path as a key's name" => header("kid", json!("../../../../dev/null")),
        "a path of the system as a key's name" => header("kid", json!("/etc/passwd")),
        "SQL as a key's name" => header("kid", json!("x' UNION SELECT 'secret';--")),
        "a command as a key's name" => header("kid", json!("|id")),
        "a URL as a key's name" => header("kid", json!("https://evil.example/key")),
        "a NUL in a key's name" => |forge| forge.header["kid"] = json!(format!("{}\0", setting.signer.kid)),
        "a long name of a key" => header("kid", json!("k".repeat(129))),
        "no text as a key's name" => header("kid", json!(1)),
        "another live key's name" => signed_by(&setting.older),
        "a retired key's name" => signed_by(&setting.retired),
        "a retired key" => |forge| {
            forge.header["kid"] = json!(setting.retired.kid);
            forge.signer = &setting.retired;
        },
        "a retired key under a live one's name" => |forge| forge.signer = &setting.retired,
        "no type" => without("typ"),
        "the type of any token" => header("typ", json!("JWT")),
        "the type of a logout" => header("typ", json!("logout+jwt")),
        "the type of an identity" => header("typ", json!("id_token")),
        "no text as type" => header("typ", json!(null)),
        "something critical" => header("crit", json!(["exp"])),
        "nothing critical" => header("crit", json!([])),
        "an unencoded payload" => header("b64", json!(false)),
        "compression" => header("zip", json!("DEF")),
        "encryption" => header("enc", json!("A256GCM")),
        "a key of its own" => |forge| {
            forge.header["jwk"] = own_jwk.clone();
            forge.signer = &own;
        },
        "a key of its own, by its name" => |forge| {
            forge.header["jwk"] = own_jwk.clone();
            forge.header["kid"] = json!(own.kid);
            forge.signer = &own;
        },
        "keys at a URL of its own" => header("jku", json!("http://127.0.0.1:1/keys")),
        "a certificate at a URL of its own" => header("x5u", json!("http://127.0.0.1:1/chain.pem")),
        "a certificate of its own" => header("x5c", json!(["MIIB"])),
        "an unknown key" => |forge| forge.signer = &own,
    };
    assert!(cases.len() >= 40, "{}", cases.len());
    for (name, change) in cases {
        assert_eq!(setting.status(&setting.forge().with(change).token()).await, 401, "{name}");
    }
    for (index, signer) in by_public_key.iter().enumerate() {
        for alg in ["HS256", "EdDSA"] {
            let forged = setting.forge().with(header("alg", json!(alg)));
            let forged = Forge { signer, ..forged };
            assert_eq!(setting.status(&forged.token()).await, 401, "{alg} with the secret {index}");
        }
    }
}

#[tokio::test]
async fn a_token_with_a_wrong_claim_is_not_let_in() {
    let setting = Setting::new(without_limits()).await;
    let (stranger, foreign_key) = setting.node.tenant("pro").await;
    let now = forge::now();
    let without =
        |name: &'static str| move |forge: &mut Forge<'_>| drop(forge.claims.as_object_mut().unwrap().remove(name));
    let cases: Vec<(&str, Change<'_>)> = changes! {
        "no issuer" => without("iss"),
        "another issuer" => claim("iss", json!("https://evil.example")),
        "nearly the issuer" => claim("iss", json!("wasmwiz ")),
        "the issuer in capitals" => claim("iss", json!("WasmWiz")),
        "several issuers" => claim("iss", json!(["wasmwiz"])),
        "no audience" => without("aud"),
        "another audience" => claim("aud", json!("them")),
        "other audiences" => claim("aud", json!(["them", "those"])),
        "no audience in the list" => claim("aud", json!([])),
        "an audience that is no text" => claim("aud", json!(["wasmwiz", 1])),
        "too many audiences" => claim("aud", json!(vec!["wasmwiz"; 17])),
        "an audience that is an object" => claim("aud", json!({"wasmwiz": true})),
        "no end" => without("exp"),
        "an end that was" => |forge| {
            forge.claims["iat"] = json!(now - 1_000);
            forge.claims["exp"] = json!(now - 100);
        },
        "an end in the far future" => claim("exp", json!(now + 3_601 + 60)),
        "an end after the year 9999" => claim("exp", json!(253_402_300_800_u64)),
        "an end that is text" => claim("exp", json!((now + 900).to_string())),
        "an end between two seconds" => claim("exp", json!(now as f64 + 900.5)),
        "an end that is null" => claim("exp", json!(null)),
        "an end below zero" => claim("exp", json!(-1)),
        "an end before its beginning" => claim("exp", json!(now - 1)),
        "no time of issue" => without("iat"),
        "a time of issue to come" => claim("iat", json!(now + 120)),
        "a time of issue that is text" => claim("iat", json!("now")),
        "a beginning to come" => claim("nbf", json!(now + 120)),
        "a beginning that is text" => claim("nbf", json!("0")),
        "no subject" => without("sub"),
        "a subject that is no text" => claim("sub", json!(7)),
        "a subject that is no key" => claim("sub", json!("AAAAAAAAAAAA")),
        "a subject that could be no key" => claim("sub", json!("../keys")),
        "an operator's name" => claim("sub", json!("operator:ada")),
        "an operator's name and scope" => |forge| {
            forge.claims["sub"] = json!("operator:ada");
            forge.claims["scope"] = json!("operator");
        },
        "an operator with more scopes" => |forge| {
            forge.claims["sub"] = json!("operator:ada");
            forge.claims["tenant"] = json!("system");
            forge.claims["scope"] = json!("operator modules:read");
        },
        "an operator with a key's name" => |forge| {
            forge.claims["sub"] = json!("operator:aaaaaaaaaaaa");
            forge.claims["tenant"] = json!("system");
            forge.claims["scope"] = json!("operator");
        },
        "no tenant" => without("tenant"),
        "another tenant" => claim("tenant", json!(stranger)),
        "the system tenant" => claim("tenant", json!("system")),
        "a tenant that is none" => claim("tenant", json!("nobody")),
        "another tenant's key" => claim("sub", json!(&foreign_key[3..15])),
        "no scope" => without("scope"),
        "scopes that are a list" => claim("scope", json!(["modules:read"])),
        "no name of its own" => without("jti"),
    };
    assert!(cases.len() >= 40, "{}", cases.len());
    for (name, change) in cases {
        assert_eq!(setting.status(&setting.forge().with(change).token()).await, 401, "{name}");
    }
}

#[tokio::test]
async fn a_text_that_is_nearly_a_token_is_not_let_in() {
    let setting = Setting::new(without_limits()).await;
    let good = setting.forge().token();
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let signed = |header: &[u8], claims: &[u8]| setting.signer.sign(&encoded(header), &encoded(claims));
    let plain = setting.forge();
    let (head, body) = (plain.header.to_string(), plain.claims.to_string());
    let twice = |text: &str, member: &str| format!("{},{member}}}", &text[..text.len() - 1]);
    let deep = format!("{},\"x\":{}1{}}}", &body[..body.len() - 1], "[".repeat(200), "]".repeat(200));
    let oversize = format!("{},\"x\":\"{}\"}}", &body[..body.len() - 1], "x".repeat(8 << 10));
    let mut flipped = signature.to_owned().into_bytes();
    flipped[10] = if flipped[10] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    // 64 bytes leave four bits of the last letter unused, which must be zero.
    let last = signature.chars().last().unwrap();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let other = letters.chars().nth(letters.find(last).unwrap() + 1).unwrap();
    let cases = [
        ("one part", header.to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("no signature", format!("{header}.{claims}.")),
        ("a dot at the end", format!("{good}.")),
        ("a dot at the beginning", format!(".{good}")),
        ("two dots", format!("{header}..{signature}")),
        ("only dots", "..".to_owned()),
        ("four parts", format!("{good}.{signature}")),
        ("five parts", format!("{good}.{claims}.{signature}")),
        ("no header", format!(".{claims}.{signature}")),
        ("padding after the header", format!("{header}=.{claims}.{signature}")),
        ("padding after the claims", format!("{header}.{claims}=.{signature}")),
        ("padding after the signature", format!("{good}==")),
        ("letters of the other base64", good.replacen(&signature[..2], "+/", 1)),
        ("letters of no base64", format!("{header}.{claims}.!!{}", &signature[2..])),
        ("a blank", format!("{header}. {claims}.{signature}")),
        ("bits that must be zero", format!("{header}.{claims}.{}{other}", &signature[..signature.len() - 1])),
        ("a shorter signature", format!("{header}.{claims}.{}", &signature[..signature.len() - 4])),
        ("a longer signature", format!("{good}AAAA")),
        ("another signature", format!("{header}.{claims}.{flipped}")),
        ("a signature of zeros", format!("{header}.{claims}.{}", encoded(&[0; 64]))),
        ("another payload", format!("{header}.{}.{signature}", encoded(body.replace("read", "write").as_bytes()))),
        ("another header", format!("{}.{claims}.{signature}", encoded(twice(&head, "\"a\":1").as_bytes()))),
        ("a claim twice", signed(head.as_bytes(), twice(&body, "\"sub\":\"AAAAAAAAAAAA\"").as_bytes())),
        ("the same claim twice", signed(head.as_bytes(), twice(&body, "\"aud\":\"wasmwiz\"").as_bytes())),
        ("a claim twice further in", signed(head.as_bytes(), twice(&body, "\"x\":{\"a\":1,\"a\":1}").as_bytes())),
        ("an algorithm twice", signed(twice(&head, "\"alg\":\"none\"").as_bytes(), body.as_bytes())),
        ("a key's name twice", signed(twice(&head, "\"kid\":\"x\"").as_bytes(), body.as_bytes())),
        ("a name written otherwise, twice", signed(twice(&head, "\"\\u0061lg\":\"none\"").as_bytes(), body.as_bytes())),
        ("a list of claims", signed(head.as_bytes(), b"[]")),
        ("a text as claims", signed(head.as_bytes(), b"\"x\"")),
        ("no claims", signed(head.as_bytes(), b"")),
        ("no claim", signed(head.as_bytes(), b"{}")),
        ("a header that is no JSON", signed(b"{alg:EdDSA}", body.as_bytes())),
        ("something after the claims", signed(head.as_bytes(), format!("{body}x").as_bytes())),
        ("a byte order mark", signed(head.as_bytes(), format!("\u{feff}{body}").as_bytes())),
        ("no UTF-8", signed(head.as_bytes(), &[body.as_bytes(), &[0xff]].concat())),
        ("claims that are too deep", signed(head.as_bytes(), deep.as_bytes())),
        ("a token that is too long", signed(head.as_bytes(), oversize.as_bytes())),
        ("a token in an envelope", format!("{{\"payload\":\"{claims}\",\"signature\":\"{signature}\"}}")),
        ("a key's prefix before a token", format!("ww_{good}")),
    ];
    assert_eq!(setting.status(&good).await, 200);
    for (name, token) in cases {
        assert_eq!(setting.status(&token).await, 401, "{name}");
    }
    let twice = setting.node.get("/v1/modules", &good).header("authorization", format!("Bearer {good}"));
    // Which of two credentials counts could be read in two ways: no request at all.
    assert_eq!(send(twice).await.status(), 400);
}
