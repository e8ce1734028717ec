//! Personal data and secrets, replaced by a word for what was there.
//!
//! The forms are those that can be told from other text with few mistakes: a phone number must have a country's code or
//! be in North America's form, a card's number must pass Luhn's check, a secret has its issuer's prefix or stands behind
//! a name such as `api_key`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What is looked for, in this order: the name under which it is counted, its place-holder, its form, and what else
/// must be true of it. Where the form has a group `value`, only that is replaced.
struct Kind {
    name: &'static str,
    mask: &'static str,
    form: Regex,
    is: fn(&str) -> bool,
}

static KINDS: LazyLock<[Kind; 6]> = LazyLock::new(|| {
    let kind = |name, mask, form: &str, is| Kind { name, mask, form: form_of(form), is };
    [
        kind("secrets", "<SECRET>", SECRET, |_| true),
        kind("secrets", "<SECRET>", NAMED_SECRET, mixed),
        kind("e-mail addresses", "<EMAIL>", EMAIL, |_| true),
        kind("card numbers", "<CARD>", CARD, card),
        kind("IP addresses", "<IP>", IP, address),
        kind("phone numbers", "<PHONE>", PHONE, phone),
    ]
});

fn form_of(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern, which a test compiles")
}

const SECRET: &str = r"(?x)
    -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----[\sA-Za-z0-9+/=:,-]*?-----END\ [A-Z\ ]*PRIVATE\ KEY-----
    | \b(?: (?:AKIA|ASIA)[0-9A-Z]{16}                               # Amazon
        | gh[pousr]_[A-Za-z0-9]{36,} | github_pat_[A-Za-z0-9_]{22,} # GitHub
        | glpat-[A-Za-z0-9_-]{20,}                                  # GitLab
        | xox[abeprs]-[A-Za-z0-9-]{10,}                             # Slack
        | AIza[0-9A-Za-z_-]{35}                                     # Google
        | [rs]k_(?:live|test)_[0-9A-Za-z]{16,}                      # Stripe
        | sk-(?:[A-Za-z]+-)*[A-Za-z0-9_]{20,}                       # OpenAI, Anthropic
        | hf_[A-Za-z0-9]{30,}                                       # Hugging Face
        | npm_[A-Za-z0-9]{36}                                       # npm
        | eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,} # a JSON web token
    )";
const NAMED_SECRET: &str = r#"(?xi)
    \b [a-z0-9_-]* (?: api[_-]?key | secret | token | passw(?:or)?d | access[_-]?key ) [a-z0-9_-]*
    ["']? \s* (?: := | => | [:=] ) \s* ["']? (?P<value> [A-Za-z0-9+/=_.~-]{11,} [A-Za-z0-9+/=_~-] )"#;
const EMAIL: &str = r"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b";
const CARD: &str = r"\b[2-6](?:[ -]?[0-9]){12,18}\b";
const IP: &str = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]+:[0-9A-Fa-f]{0,4}(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3})?";
const PHONE: &str = r"(?x)
    \+[1-9][0-9]{0,2} [\ .-]? (?:\([0-9]{1,4}\)[\ .-]?)? [0-9](?:[\ ./-]?[0-9]){5,12} \b  # behind a country's code
    | (?:\b1[\ .-])? (?: \([2-9][0-9]{2}\)\ ? | \b[2-9][0-9]{2}[.-] ) [2-9][0-9]{2}[\ .-][0-9]{4} \b";

/// Letters and digits in turn, as secrets are made of; neither a word nor one with a number at its end.
fn mixed(value: &str) -> bool {
    let word = value.trim_end_matches(|char: char| char.is_ascii_digit());
    word.contains(|char: char| char.is_ascii_digit())
        && word.contains(|char: char| char.is_ascii_alphabetic())
}

/// Whether a card's number adds up (Luhn 1954): from the right, every second digit doubled and its digits added.
fn card(number: &str) -> bool {
    let digits = number.bytes().filter(u8::is_ascii_digit).map(|byte| u32::from(byte - b'0'));
    let doubled = digits.rev().enumerate().map(|(i, digit)| match i % 2 {
        0 => digit,
        _ => 2 * digit / 10 + 2 * digit % 10,
    });
    doubled.sum::<u32>().is_multiple_of(10)
}

/// An address of someone: not a machine's own, and not what looks like an address in a program or a clock's time. Four
/// small numbers are more often a section or a version than an address, of which they would be one in 4096.
fn address(text: &str) -> bool {
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        let [first, ..] = v4.octets();
        return first != 0 && first != 127 && first != 255 && v4.octets().iter().any(|&part| part >= 32);
    }
    let groups = text.split(':').filter(|group| !group.is_empty()).count();
    text.parse::<Ipv6Addr>().is_ok_and(|v6| !v6.is_loopback()) && groups >= 3
}

/// From eight digits on, as the shortest numbers have with their country's code, to the fifteen of E.164.
fn phone(text: &str) -> bool {
    (8..=15).contains(&text.bytes().filter(u8::is_ascii_digit).count())
}

/// `text` with place-holders, whose number is added to `counts` by kind.
pub fn mask(mut text: String, counts: &mut BTreeMap<String, u64>) -> String {
    for kind in KINDS.iter() {
        let mut found = 0;
        let masked = kind.form.replace_all(&text, |captures: &Captures| {
            let all = captures.get_match();
            let value = captures.name("value").unwrap_or(all);
            if !(kind.is)(value.as_str()) || !stands_alone(&text, value.range()) {
                return all.as_str().to_owned();
            }
            found += 1;
            format!("{}{}", &text[all.start()..value.start()], kind.mask)
        });
        if found > 0 {
            text = masked.into_owned();
            *counts.entry(kind.name.into()).or_default() += found;
        }
    }
    text
}

/// The characters that a mask may bring into a text.
pub fn mask_characters() -> impl Iterator<Item = char> {
    KINDS.iter().flat_map(|kind| kind.mask.chars())
}

/// Whether what was found is no part of a longer number or name, such as 1.2.3.4.5.
fn stands_alone(text: &str, range: Range<usize>) -> bool {
    let joined = |joints: &[char], outwards: &mut dyn Iterator<Item = char>| match outwards.next() {
        Some(char) if joints.contains(&char) => outwards.next().is_some_and(|char| char.is_ascii_digit()),
        Some(char) => char.is_alphanumeric() || char == '_',
        None => false,
    };
    let before = joined(&['.', '-', ':'], &mut text[..range.start].chars().rev());
    // A colon after an address is followed by a port.
    let after = joined(&['.', '-'], &mut text[range.end..].chars());
    !before && !after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> (String, BTreeMap<String, u64>) {
        let mut counts = BTreeMap::new();
        (mask(text.to_owned(), &mut counts), counts)
    }

    /// Made here, so that no file of this repository holds what scanners for secrets take for one.
    fn secrets() -> Vec<String> {
        let letters = |n: usize| "aB3dE5gH7jK9".chars().cycle().take(n).collect::<String>();
        vec![
            format!("AKIA{}", letters(16).to_uppercase()),
            format!("ghp_{}", letters(36)),
            format!("xoxb-{}", letters(24)),
            format!("AIza{}", letters(35)),
            format!("sk_live_{}", letters(24)),
            format!("sk-proj-{}", letters(40)),
            format!("hf_{}", letters(34)),
            format!("eyJ{}.eyJ{}.{}", letters(20), letters(30), letters(43)),
            format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----", letters(64)),
        ]
    }

    #[test]
    fn what_is_private_is_masked() {
        for secret in secrets() {
            assert_eq!(masked(&format!("it is {secret}, keep it")).0, "it is <SECRET>, keep it", "{secret}");
        }
        for (text, expected) in [
            ("write to jane.doe+x@mail.example.org.", "write to <EMAIL>."),
            ("API_KEY = \"0a1b2c3d4e5f6a7b\"", "API_KEY = \"<SECRET>\""),
            ("{\"db_password\": \"corr3ct-h0rse\"}", "{\"db_password\": \"<SECRET>\"}"),
            ("pay with 4111 1111 1111 1111 now", "pay with <CARD> now"),
            ("5500-0000-0000-0004", "<CARD>"),
            ("from 203.0.113.9:8080 to 2001:db8::8a2e:370:7334.", "from <IP>:8080 to <IP>."),
            ("call +49 170 1234567 or (202) 555-0143,", "call <PHONE> or <PHONE>,"),
            ("1-202-555-0143; 202.555.0143; +442079460958", "<PHONE>; <PHONE>; <PHONE>"),
            ("+1 (202) 555-0143", "<PHONE>"),
        ] {
            assert_eq!(masked(text).0, expected);
        }
        let counts = masked("a@b.org, c@d.org and 203.0.113.8").1;
        assert_eq!(counts, BTreeMap::from([("e-mail addresses".into(), 2), ("IP addresses".into(), 1)]));
    }

    #[test]
    fn what_only_looks_private_stays() {
        for text in [
            "on 2024-01-02 at 10:20:30, pages 100-200",
            "version 1.2.3.4.5 of 127.0.0.1",
            "version 300.1.2.3, sections 9.7.3.13 and 9.7.14.5",
            "std::fmt::Display and a::b::c",
            "4111 1111 1111 1112 has a wrong digit",
            "order 1234567890123, ISBN 978-3-16-148410-0",
            "x = 3.14159265358979323846",
            "password: correcthorsebattery",
            "the token = next_token_of(stream), the secret = ingredient42.",
            "@handle and a@b",
            "1+1 = 2, +5 points, 555-1234",
            "202-555-01434",
        ] {
            let (after, counts) = masked(text);
            assert_eq!(after, text, "{counts:?}");
        }
    }

    #[test]
    fn luhns_check_refuses_any_single_wrong_digit() {
        assert!(card("4111111111111111") && card("378282246310005"));
        for i in 0..16 {
            let mut digits = *b"4111111111111111";
            digits[i] = if digits[i] == b'9' { b'0' } else { digits[i] + 1 };
            assert!(!card(std::str::from_utf8(&digits).unwrap()));
        }
    }
}
