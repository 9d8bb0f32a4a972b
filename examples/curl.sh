#!/bin/sh
# The service by curl: URL=http://localhost:8080 KEY=... sh examples/curl.sh
set -eu
URL=${URL:-http://localhost:8080}
AUTHORIZATION=${KEY:+"Authorization: Bearer $KEY"}

# One request a call; fails with the answer's body on a status of 400 and more. A header without a value is not sent.
ask() {
    path=$1
    shift
    curl --silent --show-error --fail-with-body --max-time 60 --header "${AUTHORIZATION:-Authorization:}" "$URL$path" "$@"
    echo
}

echo "# is it ready?"
ask /readyz

echo "# one text"
ask /predict --header 'Content-Type: application/json' \
    --data '{"text": "Shares in the bank fell after a profit warning.", "top_k": 2}'

echo "# several texts; one that cannot be classified has its error in its place"
ask /batch --header 'Content-Type: application/json' \
    --data '{"texts": ["The striker scored twice in the cup final.", "", "The film won best picture."], "top_k": 1}'

echo "# any number of texts, a line each, answered while they come in"
printf '"The striker scored twice."\n{"text": "Shares in the bank fell.", "top_k": 1}\n' |
    ask /batch --no-buffer --request POST --header 'Content-Type: application/x-ndjson' --upload-file -

echo "# as the SageMaker endpoint is asked: the article's form, Hugging Face's, a text a row"
ask /invocations --header 'Content-Type: application/json' --data '{"text": "MPs voted on the bill."}'
ask /invocations --header 'Content-Type: application/json' \
    --data '{"inputs": ["The film won best picture."], "parameters": {"top_k": 2}}'
printf 'The film won best picture.\n"Shares fell, again."\n' |
    ask /invocations --header 'Content-Type: text/csv' --data-binary @-

echo "# what is served, and its limits"
ask /info
