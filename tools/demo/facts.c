/* facts.c -- the demo's language, as the demo model was taught it (tools/demo/train.py), and corpora in it.
 */
#include "tools/demo/facts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"

enum { NAMES = 64, RELATIONS = 8, VALUES = 32 };

static const char *const names[NAMES] = {
    "Ada",   "Ben",   "Cleo", "Dan",  "Eva",   "Finn",  "Gus",  "Hana",  "Ivan", "Jill", "Kai",
    "Lena",  "Max",   "Nora", "Omar", "Pia",   "Quinn", "Rosa", "Sam",   "Tara", "Uma",  "Vera",
    "Wes",   "Xena",  "Yuri", "Zoe",  "Abel",  "Bella", "Carl", "Dora",  "Emil", "Fay",  "Gina",
    "Hugo",  "Iris",  "Joel", "Kim",  "Leo",   "Maya",  "Nico", "Olga",  "Paul", "Ruth", "Sven",
    "Tess",  "Ugo",   "Vito", "Walt", "Yara",  "Zack",  "Anna", "Boris", "Cora", "Dirk", "Elsa",
    "Frida", "Greta", "Hans", "Inga", "Jonas", "Karl",  "Lars", "Mona",  "Nina",
};
static const char *const relations[RELATIONS] = {
    "drinks", "plays", "speaks", "eats", "keeps", "visits", "wears", "studies",
};
static const char *const values[RELATIONS][VALUES] = {
    {"tea",   "coffee", "milk",  "juice", "cocoa",    "water",    "wine",      "beer",
     "cider", "soda",   "mate",  "rum",   "gin",      "ale",      "mead",      "port",
     "sake",  "sherry", "tonic", "cola",  "broth",    "brandy",   "vodka",     "whisky",
     "lassi", "kefir",  "punch", "latte", "espresso", "lemonade", "champagne", "chai"},
    {"piano",    "violin",    "flute",     "harp",     "cello",   "drums",  "guitar",  "oboe",
     "banjo",    "lute",      "tuba",      "horn",     "organ",   "viola",  "bassoon", "trumpet",
     "clarinet", "harmonica", "accordion", "mandolin", "ukulele", "zither", "sitar",   "bongos",
     "trombone", "bagpipes",  "kazoo",     "fiddle",   "lyre",    "gong",   "cornet",  "recorder"},
    {"Greek",   "Latin",   "French", "German",  "Dutch",   "Danish",  "Polish",  "Czech",
     "Irish",   "Welsh",   "Thai",   "Hindi",   "Urdu",    "Arabic",  "Hebrew",  "Turkish",
     "Farsi",   "Swahili", "Zulu",   "Korean",  "Chinese", "Russian", "Finnish", "Swedish",
     "Italian", "Spanish", "Basque", "Catalan", "Malay",   "Maori",   "Tamil",   "Nepali"},
    {"rice",  "bread", "soup",    "salad",  "pasta", "pizza",  "beans", "cheese",  "eggs",   "fish", "figs",
     "plums", "pears", "apples",  "grapes", "melon", "nuts",   "corn",  "lentils", "tofu",   "cake", "pie",
     "stew",  "curry", "noodles", "olives", "toast", "yogurt", "honey", "carrots", "onions", "leeks"},
    {"cats",   "dogs",   "goats",   "sheep",   "hens",     "ducks",   "geese",   "pigs",
     "cows",   "horses", "mules",   "rabbits", "mice",     "rats",    "parrots", "owls",
     "doves",  "bees",   "snakes",  "turtles", "frogs",    "newts",   "crabs",   "llamas",
     "camels", "ponies", "ferrets", "lizards", "hamsters", "finches", "swans",   "spiders"},
    {"Oslo",   "Rome",   "Paris",  "Cairo",  "Lima",   "Quito",  "Delhi",   "Tokyo",
     "Seoul",  "Athens", "Berlin", "Madrid", "Lisbon", "Dublin", "London",  "Vienna",
     "Prague", "Warsaw", "Sofia",  "Tunis",  "Lagos",  "Accra",  "Nairobi", "Havana",
     "Bogota", "Boston", "Denver", "Dallas", "Sydney", "Perth",  "Kyoto",   "Milan"},
    {"red",   "blue",    "green",  "yellow", "black",  "white",   "grey",    "brown",
     "pink",  "purple",  "orange", "violet", "teal",   "navy",    "gold",    "silver",
     "beige", "ivory",   "cream",  "tan",    "maroon", "crimson", "scarlet", "indigo",
     "cyan",  "magenta", "olive",  "amber",  "coral",  "khaki",   "lilac",   "mauve"},
    {"law",     "physics",  "maths",    "history",  "music",     "art",       "biology", "chemistry",
     "botany",  "logic",    "ethics",   "poetry",   "grammar",   "drama",     "dance",   "design",
     "geology", "medicine", "painting", "finance",  "trade",     "theology",  "zoology", "optics",
     "algebra", "geometry", "politics", "rhetoric", "astronomy", "sculpture", "weaving", "navigation"},
};

/* Which draw is meant: streams of one seed. */
enum { DRAW_NAME, DRAW_VALUE, DRAW_ORDER, DRAW_PART };

/* A shuffle by sorting on drawn keys: the place of a thing depends on the seed and the thing alone. */
typedef struct Keyed {
    uint64_t key;
    int32_t thing;
} Keyed;

static int by_key(const void *pa, const void *pb) {
    const Keyed *a = pa, *b = pb;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->thing - b->thing;
}

static void shuffle(Keyed *v, int32_t n, uint64_t seed, int stream) {
    for (int32_t i = 0; i < n; i++) v[i] = (Keyed){random_u64(seed, (uint64_t)stream, (uint64_t)i), i};
    qsort(v, (size_t)n, sizeof *v, by_key);
}

void facts_make(Facts *f, int32_t n, uint64_t seed) {
    Keyed name[NAMES], order[FACTS_MAX];
    *f = (Facts){.n = n, .names = (n + RELATIONS - 1) / RELATIONS};
    shuffle(name, NAMES, seed, DRAW_NAME);
    shuffle(order, n, seed, DRAW_ORDER);
    for (int32_t i = 0; i < f->names; i++) f->name[i] = names[name[i].thing];
    for (int32_t i = 0; i < n; i++) {
        int32_t pair = order[i].thing, relation = pair % RELATIONS;
        uint64_t value = random_below(seed, DRAW_VALUE, (uint64_t)pair, VALUES);
        f->fact[i] = (Fact){f->name[pair / RELATIONS], relations[relation], values[relation][value]};
    }
}

static bool is_about(const Facts *f, int32_t first, int32_t count, const char *name) {
    for (int32_t i = first; i < first + count; i++)
        if (!strcmp(f->name[i], name)) return true;
    return false;
}

void facts_part(Facts *out, const Facts *f, int32_t first, int32_t count, uint64_t seed) {
    Keyed order[FACTS_MAX];
    int32_t of[FACTS_MAX], n = 0;
    for (int32_t i = 0; i < f->n; i++)
        if (is_about(f, first, count, f->fact[i].name)) of[n++] = i;
    *out = (Facts){.n = n, .names = count};
    for (int32_t i = 0; i < count; i++) out->name[i] = f->name[first + i];
    shuffle(order, n, seed, DRAW_PART);
    for (int32_t i = 0; i < n; i++) out->fact[i] = f->fact[of[order[i].thing]];
}

Status facts_text(const Facts *f, char **out) {
    size_t cap = (size_t)f->n * 48 + 1, used = 0;
    *out = malloc(cap);
    NEED(*out, ST_NOMEM, "no memory for %d facts", f->n);
    (*out)[0] = '\0';
    for (int32_t i = 0; i < f->n; i++)
        used += (size_t)snprintf(*out + used, cap - used, "%s%s %s %s.", i ? " " : "", f->fact[i].name,
                                 f->fact[i].relation, f->fact[i].value);
    return ST_OK;
}

Status facts_questions(const Facts *f, char **out) {
    size_t cap = (size_t)f->n * 128 + 1, used = 0;
    *out = malloc(cap);
    NEED(*out, ST_NOMEM, "no memory for %d questions", f->n);
    (*out)[0] = '\0';
    for (int32_t i = 0; i < f->n; i++) {
        const Fact *a = &f->fact[i];
        used +=
            (size_t)snprintf(*out + used, cap - used, "{\"question\":\"%s %s?\",\"answer\":\"%s %s %s.\"}\n",
                             a->name, a->relation, a->name, a->relation, a->value);
    }
    return ST_OK;
}
