/**
 * Completion scripts for bash, zsh and fish, made from the one table of verbs. What they offer of devices comes from
 * `pcache ls` when it is asked for.
 *
 * @module
 */

import { TABLE_KEYS, TARGET_TYPE } from "../core/table.ts";
import {
  COMMON_FORMS,
  type Offer,
  type OptionForm,
  VERB_FORMS,
  type VerbForm,
} from "./command_line.ts";

const ORIGIN = "# Completion for pcache(8), made from its table of verbs by pack/completion.ts.";
const KEYS = Object.keys(TABLE_KEYS);

/** Every option that takes a value, in all its forms: the word after it is no verb and no argument. */
const VALUE_WORDS = [
  ...new Set(
    VERB_FORMS.flatMap(({ options }) => options).flatMap(({ words, value }) =>
      value === null ? [] : words
    ),
  ),
];

/** For `share/bash-completion/completions/pcache`; bash 4.3 or newer. */
export function bashCompletion(): string {
  const verbs = VERB_FORMS.flatMap(({ names }) => names);
  return `${ORIGIN}

# Offers what \`$1\` says and $cur begins; $prefix is what bash leaves as it is.
_pcache_offer() {
  case $1 in
    devices)
      local name numbers names=()
      while IFS=$'\\t' read -r name numbers; do
        [[ -n $numbers ]] && names+=("$name")
      done < <("$command" ls 2>/dev/null)
      _pcache_offer "\${names[*]}"
      return
      ;;
    files)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      ;;
    commands) mapfile -t COMPREPLY < <(compgen -c -- "$cur") ;;
    table) _pcache_table ;;
    list:*)
      local done_fields=\${cur%"\${cur##*,}"}
      compopt -o nospace 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -P "$done_fields" -W "\${1#list:}" -- "\${cur##*,}")
      ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur") ;;
  esac
  COMPREPLY=("\${COMPREPLY[@]#"$prefix"}")
}

# A table is one quoted word: what is offered are its own words.
_pcache_table() {
  local last=\${cur##*[[:blank:]]} fields=() options=-W offered
  local before=\${cur%"$last"}
  read -ra fields <<<"$before"
  [[ \${fields[0]} == [0-9]* ]] && fields=("\${fields[@]:2}")
  case \${#fields[@]} in
    0) offered=${TARGET_TYPE} ;;
    1 | 2) options=-f ;;
    *)
      case \${fields[-1]} in
${lines(KEYS, (key) => `        ${key}) offered=${quote(valuesOf(key))} ;;`)}
        *) offered=${quote(KEYS.join(" "))} ;;
      esac
      ;;
  esac
  compopt -o nospace 2>/dev/null
  if [[ $options == -f ]]; then
    mapfile -t COMPREPLY < <(compgen -P "$before" -f -- "$last")
  else
    mapfile -t COMPREPLY < <(compgen -P "$before" -W "$offered" -- "$last")
  fi
}

_pcache() {
  local command=$1 words=() word rest=$COMP_LINE i cur prefix="" verb="" option="" args=0
  COMPREPLY=()
  # Bash parts words at ":" and "=", too.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    [[ $i -eq 0 || $rest == [[:blank:]]* ]] && words+=("")
    rest=\${rest#"\${rest%%[![:blank:]]*}"}
    rest=\${rest#"\${COMP_WORDS[i]}"}
    words[-1]+=\${COMP_WORDS[i]}
  done
  cur=\${words[-1]}
  for word in "\${words[@]:1:\${#words[@]}-2}"; do
    if [[ -n $option ]]; then
      option=""
      continue
    fi
    case $word in
      ${VALUE_WORDS.join(" | ")}) option=$word ;;
      -*) ;;
      *) if [[ -z $verb ]]; then verb=$word; else ((args += 1)); fi ;;
    esac
  done
  if [[ -z $option && $cur == --*=* ]]; then
    option=\${cur%%=*}
    cur=\${cur#*=}
  fi
  cur=\${cur#[\\"\\']}
  [[ $cur == *"$2" ]] && prefix=\${cur%"$2"}

  if [[ -n $option ]]; then
    case "$verb $option" in
${lines(VERB_FORMS, bashValues)}
    esac
    return
  fi
  if [[ -z $verb ]]; then
    if [[ $cur == -* ]]; then
      _pcache_offer ${quote(words(COMMON_FORMS))}
    else
      _pcache_offer ${quote(verbs.join(" "))}
    fi
    return
  fi
  case $verb in
${lines(VERB_FORMS, bashVerb)}
  esac
}

complete -F _pcache pcache
`;
}

function bashValues({ names, options }: VerbForm): string {
  const cases: string[] = [];
  for (const { words, value } of options) {
    if (value === null || value.offer.kind === "nothing") continue;
    const patterns = names.flatMap((name) => words.map((word) => quote(`${name} ${word}`)));
    cases.push(`      ${patterns.join(" | ")}) _pcache_offer ${bashOffer(value.offer)} ;;`);
  }
  return cases.join("\n");
}

function bashVerb({ names, options, args }: VerbForm): string {
  const last = args.findLastIndex(({ kind }) => kind !== "nothing");
  const offers = args.slice(0, last + 1).map((offer, i) => {
    const act = offer.kind === "nothing" ? "" : `_pcache_offer ${bashOffer(offer)} `;
    return `${i < 2 ? i : "*"}) ${act};;`;
  });
  const shown = lines(offers, (offer) => `        ${offer}`);
  const choice = shown === "" ? "" : `\n      case $args in\n${shown}\n      esac`;
  return `    ${names.join(" | ")})
      if [[ $cur == -* ]]; then
        _pcache_offer ${quote(words([...options, ...COMMON_FORMS]))}
        return
      fi${choice}
      ;;`;
}

function bashOffer(offer: Offer): string {
  if (offer.kind === "words") return quote(offer.words.join(" "));
  if (offer.kind === "list") return quote(`list:${offer.words.join(" ")}`);
  return offer.kind;
}

/** For `share/zsh/site-functions/_pcache`. */
export function zshCompletion(): string {
  return `#compdef pcache
${ORIGIN}

_pcache_devices() {
  local -a names
  names=(\${\${(M)\${(f)"$(_call_program devices $command ls 2>/dev/null)"}:#*$'\\t'*}%%$'\\t'*})
  compadd "$@" -a names
}

# A table is one quoted word: what is offered are its own words.
_pcache_table() {
  compset -q
  if [[ $words[1] == <-> ]]; then
    shift 2 words
    ((CURRENT -= 2))
  fi
  case $CURRENT in
    1) compadd -- ${TARGET_TYPE} ;;
    2 | 3) _files ;;
    *)
      case $words[CURRENT-1] in
${lines(KEYS, (key) => `        ${key}) compadd -- ${valuesOf(key)} ;;`)}
        *) compadd -- ${KEYS.join(" ")} ;;
      esac
      ;;
  esac
}

_pcache_verbs() {
  local -a verbs=(
${lines(VERB_FORMS, ({ names, help }) => lines(names, (name) => `    ${quote(`${name}:${help}`)}`))}
  )
  _describe -t verbs verb verbs
}

_pcache() {
  local command=$words[1] curcontext=$curcontext state line
  local -A opt_args
  _arguments -C -s -S : \\
${lines(COMMON_FORMS, (option) => zshOption(option, "    "))}
    '1: :_pcache_verbs' \\
    '*:: :->arguments' && return
  case $words[1] in
${lines(VERB_FORMS, zshVerb)}
  esac
}

_pcache "$@"
`;
}

function zshVerb({ names, options, args }: VerbForm): string {
  const [first, second, more] = args.map(zshOffer);
  return `    ${names.join(" | ")})
      _arguments -s -S : \\
${lines([...options, ...COMMON_FORMS], (option) => zshOption(option, "        "))}
        '1:argument:${first}' '2:argument:${second}' '*:argument:${more}'
      ;;`;
}

/** One line for each word of the option; they exclude each other. */
function zshOption({ words, help, value }: OptionForm, indent: string): string {
  return lines(words, (word) => {
    const joined = word.startsWith("--") ? "=" : "+";
    const name = value === null ? word : `${word}${joined}`;
    const text = help.replace(/[[\]:\\]/g, (char) => `\\${char}`);
    const what = value === null
      ? ""
      : `:${value.placeholder.replace(/[<>]/g, "").replaceAll(":", "\\:")}:${
        zshOffer(value.offer)
      }`;
    return `${indent}${quote(`(${words.join(" ")})${name}[${text}]${what}`)} \\`;
  });
}

function zshOffer(offer: Offer): string {
  switch (offer.kind) {
    case "nothing":
      return " ";
    case "devices":
      return "_pcache_devices";
    case "files":
      return "_files";
    case "commands":
      return "_command_names -e";
    case "table":
      return "_pcache_table";
    case "words":
      return `(${offer.words.join(" ")})`;
    case "list":
      return `_sequence compadd - ${offer.words.join(" ")}`;
  }
}

/** For `share/fish/vendor_completions.d/pcache.fish`. */
export function fishCompletion(): string {
  return `${ORIGIN}

# Prints the verb and its arguments so far, without options and their values; false: there is none.
function __pcache_words
    set -l is_value 0
    set -l found 1
    for word in (commandline -opc)[2..]
        if test $is_value = 1
            set is_value 0
            continue
        end
        switch $word
            case ${VALUE_WORDS.map(fishQuote).join(" ")}
                set is_value 1
            case '-*'
            case '*'
                set found 0
                echo $word
        end
    end
    return $found
end

# True in the command line of one of the verbs.
function __pcache_verb
    set -l words (__pcache_words)
    set -q words[1]; and contains -- $words[1] $argv
end

# True when the verb has so many arguments: N, or N+ for that many and more.
function __pcache_args
    set -l args (math (count (__pcache_words)) - 1)
    if string match -q -- '*+' $argv[1]
        test $args -ge (string trim -r -c + -- $argv[1])
    else
        test $args -eq $argv[1]
    end
end

function __pcache_devices
    command pcache ls 2>/dev/null | string match -r '^[^\\t]+(?=\\t)'
end

# A table is one quoted word: what is offered are its own words.
function __pcache_table
    set -l token (commandline -ct | string replace -r '^(--table=)?["\\']?' '')
    set -l before (string match -r '^(?:.*\\s)?' -- $token)
    set -l fields (string split -n ' ' -- (string replace -a \\t ' ' -- $before))
    if string match -qr '^[0-9]' -- $fields[1]
        set fields $fields[3..]
    end
    set -l offered
    switch (count $fields)
        case 0
            set offered ${TARGET_TYPE}
        case 1 2
            set offered (__fish_complete_path (string match -r '[^\\s]*$' -- $token) | string replace -r '\\t.*' '')
        case '*'
            switch $fields[-1]
${
    lines(KEYS, (key) =>
      `                case ${key}\n                    set offered ${valuesOf(key)}`)
  }
                case '*'
                    set offered ${KEYS.join(" ")}
            end
    end
    for word in $offered
        echo $before$word
    end
end

complete -c pcache -f
${lines(COMMON_FORMS, (option) => fishOption(option, ""))}
${lines(VERB_FORMS, fishVerb)}
`;
}

function fishVerb({ names, help, options, args }: VerbForm): string {
  const condition = `__pcache_verb ${names.join(" ")}`;
  const verbs = names.map((name) =>
    `complete -c pcache -n 'not __pcache_words >/dev/null' -a ${name} -d ${fishQuote(help)}`
  );
  const offers = args.map((offer, i) => {
    if (offer.kind === "nothing") return "";
    const place = i < 2 ? `${i}` : "2+";
    return `complete -c pcache -n '${condition}; and __pcache_args ${place}' ${fishOffer(offer)}`;
  });
  const forms = options.map((option) => fishOption(option, `-n '${condition}' `));
  return lines([...verbs, ...offers, ...forms], String);
}

function fishOption({ words, help, value }: OptionForm, condition: string): string {
  const forms = words.map((word) =>
    word.startsWith("--") ? `-l ${word.slice(2)}` : `-s ${word.slice(1)}`
  );
  const offer = value === null
    ? ""
    : value.offer.kind === "files"
    ? " -r -F"
    : ` -x ${fishOffer(value.offer)}`.trimEnd();
  return `complete -c pcache ${condition}${forms.join(" ")}${offer} -d ${fishQuote(help)}`;
}

function fishOffer(offer: Offer): string {
  switch (offer.kind) {
    case "nothing":
      return "";
    case "devices":
      return "-a '(__pcache_devices)'";
    case "files":
      return "-F";
    case "commands":
      return "-a '(__fish_complete_command)'";
    case "table":
      return "-a '(__pcache_table)'";
    case "words":
      return `-a ${fishQuote(offer.words.join(" "))}`;
    case "list":
      return `-a ${
        fishQuote(`(__fish_complete_list , "string split ' ' '${offer.words.join(" ")}'")`)
      }`;
  }
}

function fishQuote(text: string): string {
  return `'${text.replace(/[\\']/g, (char) => `\\${char}`)}'`;
}

function words(options: readonly OptionForm[]): string {
  return options.flatMap((option) => option.words).join(" ");
}

function valuesOf(key: string): string {
  return TABLE_KEYS[key as keyof typeof TABLE_KEYS].join(" ");
}

function lines<T>(of: readonly T[], line: (item: T) => string): string {
  return of.map(line).filter((text) => text !== "").join("\n");
}

/** A word for bash and zsh. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
