/* complete.c -- see complete.h. What may follow an option is read off the word that the help shows for its
 * value: "FILE" and "PATH" are files, "DIR" is a folder, small letters are words themselves,
 * "first|random|FILE" is both. */
#include "tools/complete.h"

#include <ctype.h>
#include <string.h>

/* What a value may be. */
typedef struct Kind {
    char words[256]; /* separated by blanks */
    bool file, folder, many;
} Kind;

static void add_part(Kind *k, const char *p, size_t n) {
    size_t used = strlen(k->words);
    if (n >= 3 && !strncmp(p + n - 3, "...", 3)) n -= 3, k->many = true;
    const char *optional = memchr(p, '[', n); /* cuda[:N] */
    if (optional) n = (size_t)(optional - p);
    if ((n == 4 && (!strncmp(p, "FILE", n) || !strncmp(p, "PATH", n))))
        k->file = true;
    else if (n == 3 && !strncmp(p, "DIR", n))
        k->folder = true;
    else if (n && islower((unsigned char)*p) && used + n + 2 < sizeof k->words)
        snprintf(k->words + used, sizeof k->words - used, "%s%.*s", used ? " " : "", (int)n, p);
}

static Kind kind_of(const char *argument) {
    Kind k = {.words = ""};
    for (const char *p = argument; p && *p;) {
        size_t n = strcspn(p, "|");
        add_part(&k, p, n);
        p += n + (p[n] == '|');
    }
    return k;
}

/* The names of commands are what stands beside the options of some. */
static Kind operands_of(const Command *c) {
    Kind k = kind_of(c->operands);
    if (!c->operands || strcmp(c->operands, "COMMAND")) return k;
    for (int i = 0; commands[i]; i++) add_part(&k, commands[i]->name, strlen(commands[i]->name));
    return k;
}

typedef void (*PutCommand)(FILE *out, const Command *c, const OptionSet *s);

static Status each_command(FILE *out, PutCommand put) {
    for (int i = 0; commands[i]; i++) {
        CommandOptions o;
        TRY(command_options_open(&o, commands[i]));
        put(out, commands[i], &o.set);
        command_options_close(&o);
    }
    return ST_OK;
}

static void put_names(FILE *out) {
    for (int i = 0; commands[i]; i++) fprintf(out, "%s%s", i ? " " : "", commands[i]->name);
}

/* ---- bash ---- */

static void bash_values(FILE *out, const Kind *k, const char *indent) {
    if (k->words[0])
        fprintf(out, "%smapfile -t COMPREPLY < <(compgen -W '%s' -- \"$cur\")\n", indent, k->words);
    if (!k->file && !k->folder) return;
    fprintf(out, "%scompopt -o filenames 2>/dev/null\n", indent);
    fprintf(out, "%smapfile -t -O \"${#COMPREPLY[@]}\" COMPREPLY < <(compgen -%c -- \"$cur\")\n", indent,
            k->file ? 'f' : 'd');
}

static void bash_command(FILE *out, const Command *c, const OptionSet *s) {
    fprintf(out, "    %s)\n        case $prev in\n", c->name);
    for (int32_t i = 0; i < s->n; i++) {
        const Option *o = s->slot[i].row;
        if (o->type == OPTION_FLAG) continue;
        Kind k = kind_of(o->argument);
        fprintf(out, "        --%s", o->name);
        if (o->letter) fprintf(out, " | -%c", o->letter);
        fputs(")\n", out);
        bash_values(out, &k, "            ");
        fputs("            return ;;\n", out);
    }
    fputs(
        "        esac\n        if [[ $cur == -* ]]; then\n            mapfile -t COMPREPLY < <(compgen -W '",
        out);
    for (int32_t i = 0; i < s->n; i++) fprintf(out, "%s--%s", i ? " " : "", s->slot[i].row->name);
    fputs("' -- \"$cur\")\n            return\n        fi\n", out);
    Kind k = operands_of(c);
    bash_values(out, &k, "        ");
    fputs("        ;;\n", out);
}

Status complete_bash(FILE *out) {
    fputs("# bash completion for cartridge, made by 'cartridge completion bash'\n"
          "_cartridge() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        mapfile -t COMPREPLY < <(compgen -W '",
          out);
    put_names(out);
    fputs(" --version --help' -- \"$cur\")\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n", out);
    TRY(each_command(out, bash_command));
    fputs("    esac\n}\ncomplete -F _cartridge cartridge\n", out);
    return ST_OK;
}

/* ---- zsh ---- */

/* Inside '...' and inside [...] or a message of _arguments. */
static void zsh_text(FILE *out, const char *p) {
    for (; *p; p++) {
        if (*p == '\'')
            fputs("'\\''", out);
        else {
            if (strchr("[]:\\", *p)) fputc('\\', out);
            fputc(*p, out);
        }
    }
}

/* An action that begins with a blank is called as it stands. */
static void zsh_values(FILE *out, const Kind *k) {
    if (k->words[0] && (k->file || k->folder))
        fprintf(out, " _cartridge_words_or_files %s", k->words);
    else if (k->words[0])
        fprintf(out, "(%s)", k->words);
    else if (k->file || k->folder)
        fputs(k->file ? "_files" : "_files -/", out);
}

static void zsh_option(FILE *out, const Option *o) {
    const char *many = o->type == OPTION_LIST ? "*" : "";
    for (int letter = 0; letter <= (o->letter != 0); letter++) {
        if (letter)
            fprintf(out, "            '%s-%c", many, o->letter);
        else
            fprintf(out, "            '%s--%s", many, o->name);
        fputc('[', out);
        zsh_text(out, o->help);
        fputc(']', out);
        if (o->argument) {
            Kind k = kind_of(o->argument);
            fputc(':', out);
            zsh_text(out, o->argument);
            fputc(':', out);
            zsh_values(out, &k);
        }
        fputs("' \\\n", out);
    }
}

static void zsh_command(FILE *out, const Command *c, const OptionSet *s) {
    fprintf(out, "    %s)\n        _arguments -s \\\n", c->name);
    for (int32_t i = 0; i < s->n; i++) zsh_option(out, s->slot[i].row);
    Kind k = operands_of(c);
    if (c->operands_max) {
        fprintf(out, "            '%s:", k.many ? "*" : "1");
        zsh_text(out, c->operands);
        fputc(':', out);
        zsh_values(out, &k);
        fputs("'\n", out);
    } else {
        fputs("            && return\n", out);
    }
    fputs("        ;;\n", out);
}

Status complete_zsh(FILE *out) {
    fputs("#compdef cartridge\n# zsh completion for cartridge, made by 'cartridge completion zsh'\n"
          "_cartridge_words_or_files() {\n    compadd -- \"$@\"\n    _files\n}\n"
          "_cartridge() {\n    local -a names\n    names=(\n",
          out);
    for (int i = 0; commands[i]; i++) {
        fprintf(out, "        '%s:", commands[i]->name);
        zsh_text(out, commands[i]->summary);
        fputs("'\n", out);
    }
    fputs("    )\n    if ((CURRENT == 2)); then\n        _describe command names\n        return\n    fi\n"
          "    local name=$words[2]\n    shift words\n    ((CURRENT--))\n    case $name in\n",
          out);
    TRY(each_command(out, zsh_command));
    fputs("    esac\n}\nif [[ $funcstack[1] == _cartridge ]]; then\n    _cartridge \"$@\"\nelse\n"
          "    compdef _cartridge cartridge\nfi\n",
          out);
    return ST_OK;
}

/* ---- fish ---- */

static void fish_text(FILE *out, const char *p) {
    fputc('\'', out);
    for (; *p; p++) {
        if (*p == '\'' || *p == '\\') fputc('\\', out);
        fputc(*p, out);
    }
    fputc('\'', out);
}

static void fish_begin(FILE *out, const Command *c) {
    fprintf(out, "complete -c cartridge -n '__fish_seen_subcommand_from %s'", c->name);
}

static void fish_values(FILE *out, const Kind *k) {
    if (k->words[0]) fprintf(out, " -a '%s'", k->words);
    if (k->folder && !k->file) fputs(" -a '(__fish_complete_directories)'", out);
    if (k->file) fputs(" -F", out);
}

static void fish_command(FILE *out, const Command *c, const OptionSet *s) {
    for (int32_t i = 0; i < s->n; i++) {
        const Option *o = s->slot[i].row;
        Kind k = kind_of(o->argument);
        fish_begin(out, c);
        if (o->letter) fprintf(out, " -s %c", o->letter);
        fprintf(out, " -l %s%s -d ", o->name, o->type == OPTION_FLAG ? "" : k.file ? " -r" : " -x");
        fish_text(out, o->help);
        fish_values(out, &k);
        fputc('\n', out);
    }
    Kind k = operands_of(c);
    if (!k.words[0] && !k.file && !k.folder) return;
    fish_begin(out, c);
    fish_values(out, &k);
    fputc('\n', out);
}

Status complete_fish(FILE *out) {
    fputs("# fish completion for cartridge, made by 'cartridge completion fish'\ncomplete -c cartridge -f\n",
          out);
    for (int i = 0; commands[i]; i++) {
        fprintf(out, "complete -c cartridge -n __fish_use_subcommand -a %s -d ", commands[i]->name);
        fish_text(out, commands[i]->summary);
        fputc('\n', out);
    }
    return each_command(out, fish_command);
}
