-- SPDX-License-Identifier: Apache-2.0

-- Schema 3 as it was released, with rows in every table; never changed again.

CREATE TABLE ci_approval (
	connection TEXT NOT NULL,
	change_number BIGINT NOT NULL,
	patchset BIGINT NOT NULL,
	account TEXT NOT NULL,
	label TEXT NOT NULL,
	name TEXT NOT NULL,
	value BIGINT NOT NULL,
	said TEXT NOT NULL,
	is_ci BOOLEAN NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (connection, change_number, patchset, account, label)
);

CREATE INDEX ci_approval_ci ON ci_approval (is_ci, at);

CREATE TABLE ci_audit (
	id BIGSERIAL NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	by TEXT NOT NULL,
	action TEXT NOT NULL,
	subject TEXT NOT NULL,
	note TEXT NOT NULL,
	PRIMARY KEY (id)
);

CREATE TABLE ci_branch (
	connection TEXT NOT NULL,
	project TEXT NOT NULL,
	name TEXT NOT NULL,
	tip TEXT NOT NULL,
	moved_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (connection, project, name)
);

CREATE TABLE ci_change (
	connection TEXT NOT NULL,
	number BIGINT NOT NULL,
	project TEXT NOT NULL,
	branch TEXT NOT NULL,
	change_id TEXT NOT NULL,
	subject TEXT NOT NULL,
	owner TEXT NOT NULL,
	url TEXT NOT NULL,
	status TEXT NOT NULL,
	patchset BIGINT NOT NULL,
	updated_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	seen_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (connection, number)
);

CREATE INDEX ci_change_number ON ci_change (number);

CREATE TABLE ci_connection (
	name TEXT NOT NULL,
	state TEXT NOT NULL,
	message TEXT NOT NULL,
	since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	malformed BIGINT NOT NULL,
	unknown BIGINT NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE ci_event (
	id BIGSERIAL NOT NULL,
	connection TEXT NOT NULL,
	key TEXT NOT NULL,
	kind TEXT NOT NULL,
	project TEXT NOT NULL,
	change_number BIGINT NOT NULL,
	patchset BIGINT,
	payload JSON NOT NULL,
	source TEXT NOT NULL,
	author TEXT NOT NULL,
	occurred_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	received_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	processed_at TIMESTAMP WITHOUT TIME ZONE,
	decision TEXT,
	PRIMARY KEY (id),
	UNIQUE (connection, key)
);

CREATE INDEX ci_event_change ON ci_event (connection, change_number);

CREATE INDEX ci_event_todo ON ci_event (processed_at, id);

CREATE TABLE ci_leader (
	name TEXT NOT NULL,
	holder TEXT NOT NULL,
	incarnation TEXT NOT NULL,
	token BIGINT NOT NULL,
	expires_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE ci_node (
	name TEXT NOT NULL,
	label TEXT NOT NULL,
	provider TEXT NOT NULL,
	state TEXT NOT NULL,
	reason TEXT NOT NULL,
	failures BIGINT NOT NULL,
	checked_at TIMESTAMP WITHOUT TIME ZONE,
	token BIGINT NOT NULL,
	tags JSON NOT NULL,
	worker TEXT,
	holder TEXT,
	holder_worker TEXT,
	leased_at TIMESTAMP WITHOUT TIME ZONE,
	expires_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (name)
);

CREATE TABLE ci_notice (
	id BIGSERIAL NOT NULL,
	kind TEXT NOT NULL,
	key TEXT NOT NULL,
	subject TEXT NOT NULL,
	text TEXT NOT NULL,
	url TEXT NOT NULL,
	facts JSON NOT NULL,
	occurred_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (key)
);

CREATE TABLE ci_pause (
	kind TEXT NOT NULL,
	name TEXT NOT NULL,
	by TEXT NOT NULL,
	why TEXT NOT NULL,
	since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	until TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (kind, name)
);

CREATE TABLE ci_process (
	name TEXT NOT NULL,
	incarnation TEXT NOT NULL,
	roles JSON NOT NULL,
	host TEXT NOT NULL,
	pid BIGINT NOT NULL,
	version TEXT NOT NULL,
	slots BIGINT NOT NULL,
	state TEXT NOT NULL,
	started_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	beat_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE ci_reporter (
	name TEXT NOT NULL,
	seen BIGINT NOT NULL,
	since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE ci_schema (
	version BIGSERIAL NOT NULL,
	PRIMARY KEY (version)
);

CREATE TABLE ci_turn (
	project TEXT NOT NULL,
	node_label TEXT NOT NULL,
	priority BIGINT NOT NULL,
	turn BIGINT NOT NULL,
	PRIMARY KEY (project, node_label, priority)
);

CREATE TABLE ci_watermark (
	connection TEXT NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (connection)
);

CREATE TABLE ci_buildset (
	id TEXT NOT NULL,
	connection TEXT NOT NULL,
	project TEXT NOT NULL,
	branch TEXT NOT NULL,
	change_number BIGINT NOT NULL,
	patchset BIGINT NOT NULL,
	revision TEXT NOT NULL,
	ref TEXT NOT NULL,
	pipeline TEXT NOT NULL,
	recheck BIGINT NOT NULL,
	event_id BIGINT,
	reason TEXT NOT NULL,
	requested_by TEXT NOT NULL,
	request TEXT NOT NULL,
	made_up BOOLEAN NOT NULL,
	depends JSON,
	state TEXT NOT NULL,
	verdict JSON,
	created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	finished_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (connection, change_number, patchset, pipeline, recheck),
	FOREIGN KEY(event_id) REFERENCES ci_event (id)
);

CREATE INDEX ci_buildset_change ON ci_buildset (change_number);

CREATE INDEX ci_buildset_created ON ci_buildset (created_at);

CREATE INDEX ci_buildset_requested ON ci_buildset (requested_by, created_at);

CREATE INDEX ci_buildset_state ON ci_buildset (state);

CREATE TABLE ci_delivery (
	id BIGSERIAL NOT NULL,
	notice_id BIGINT NOT NULL,
	reporter TEXT NOT NULL,
	state TEXT NOT NULL,
	tries BIGINT NOT NULL,
	sender TEXT,
	sending_until TIMESTAMP WITHOUT TIME ZONE,
	next_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	error TEXT NOT NULL,
	settled_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (notice_id, reporter),
	FOREIGN KEY(notice_id) REFERENCES ci_notice (id)
);

CREATE INDEX ci_delivery_todo ON ci_delivery (reporter, state, next_at);

CREATE TABLE ci_build (
	id TEXT NOT NULL,
	buildset_id TEXT NOT NULL,
	job_name TEXT NOT NULL,
	job JSON NOT NULL,
	node_label TEXT NOT NULL,
	voting BOOLEAN NOT NULL,
	state TEXT NOT NULL,
	waiting TEXT NOT NULL,
	cancel_reason TEXT,
	result TEXT,
	failure_class TEXT,
	reason TEXT NOT NULL,
	judgement JSON,
	priority BIGINT NOT NULL,
	turn BIGINT NOT NULL,
	wants JSON NOT NULL,
	requires JSON NOT NULL,
	position BIGINT,
	eta_at TIMESTAMP WITHOUT TIME ZONE,
	worker TEXT,
	claim BIGINT NOT NULL,
	logs TEXT NOT NULL,
	queued_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	started_at TIMESTAMP WITHOUT TIME ZONE,
	finished_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	FOREIGN KEY(buildset_id) REFERENCES ci_buildset (id)
);

CREATE INDEX ci_build_buildset ON ci_build (buildset_id);

CREATE INDEX ci_build_finished ON ci_build (finished_at);

CREATE INDEX ci_build_line ON ci_build (state, node_label, priority, turn, id);

CREATE INDEX ci_build_queued ON ci_build (queued_at, id);

CREATE TABLE ci_outbox (
	id BIGSERIAL NOT NULL,
	buildset_id TEXT NOT NULL,
	connection TEXT NOT NULL,
	project TEXT NOT NULL,
	change_number BIGINT NOT NULL,
	patchset BIGINT NOT NULL,
	revision TEXT NOT NULL,
	tag TEXT NOT NULL,
	marker TEXT NOT NULL,
	message TEXT NOT NULL,
	label TEXT,
	value BIGINT,
	state TEXT NOT NULL,
	stale TEXT NOT NULL,
	transport TEXT NOT NULL,
	tries BIGINT NOT NULL,
	sender TEXT,
	sending_until TIMESTAMP WITHOUT TIME ZONE,
	next_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	error TEXT NOT NULL,
	created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	settled_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (buildset_id),
	FOREIGN KEY(buildset_id) REFERENCES ci_buildset (id)
);

CREATE INDEX ci_outbox_todo ON ci_outbox (state, next_at);

CREATE TABLE ci_attempt (
	id TEXT NOT NULL,
	build_id TEXT NOT NULL,
	number BIGINT NOT NULL,
	kind TEXT NOT NULL,
	state TEXT NOT NULL,
	phase TEXT NOT NULL,
	result TEXT,
	error TEXT NOT NULL,
	hint TEXT NOT NULL,
	node TEXT,
	token BIGINT,
	peers JSON NOT NULL,
	worker TEXT,
	claim BIGINT NOT NULL,
	grade TEXT NOT NULL,
	hypervisor TEXT NOT NULL,
	facts JSON NOT NULL,
	tip TEXT,
	tree TEXT,
	base_tree TEXT,
	exit_status BIGINT,
	interrupted BOOLEAN NOT NULL,
	dependency BOOLEAN NOT NULL,
	started_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	leased_at TIMESTAMP WITHOUT TIME ZONE,
	suite_started_at TIMESTAMP WITHOUT TIME ZONE,
	finished_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (build_id, number),
	FOREIGN KEY(build_id) REFERENCES ci_build (id)
);

CREATE INDEX ci_attempt_state ON ci_attempt (state);

CREATE INDEX ci_attempt_tree ON ci_attempt (tree);

CREATE TABLE ci_pin (
	build_id TEXT NOT NULL,
	by TEXT NOT NULL,
	why TEXT NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (build_id),
	FOREIGN KEY(build_id) REFERENCES ci_build (id)
);

CREATE TABLE ci_outcome (
	id BIGSERIAL NOT NULL,
	attempt_id TEXT NOT NULL,
	test_id TEXT NOT NULL,
	status TEXT NOT NULL,
	duration_s FLOAT NOT NULL,
	message TEXT NOT NULL,
	details TEXT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(attempt_id) REFERENCES ci_attempt (id)
);

CREATE INDEX ci_outcome_attempt ON ci_outcome (attempt_id);

CREATE INDEX ci_outcome_test ON ci_outcome (test_id);

INSERT INTO ci_approval (connection, change_number, patchset, account, label, name, value, said, is_ci, at) VALUES ('approval connection 1 it''s ✓', 10, 2147483001, 'approval account 1 it''s ✓', 'approval label 1 it''s ✓', 'approval name 1 it''s ✓', 10, 'said 1', true, '2026-03-29 01:30:00.123456');

INSERT INTO ci_approval (connection, change_number, patchset, account, label, name, value, said, is_ci, at) VALUES ('approval connection 2 it''s ✓', 20, 2147483002, 'approval account 2 it''s ✓', 'approval label 2 it''s ✓', 'approval name 2 it''s ✓', 20, 'said 2', false, '2026-07-07 01:30:00.123456');

INSERT INTO ci_audit (id, at, by, action, subject, note) VALUES (10, '2026-03-29 01:30:00.123456', 'audit by 1 it''s ✓', 'audit action 1 it''s ✓', 'audit subject 1 it''s ✓', 'audit note 1 it''s ✓');

INSERT INTO ci_audit (id, at, by, action, subject, note) VALUES (20, '2026-07-07 01:30:00.123456', 'audit by 2 it''s ✓', 'audit action 2 it''s ✓', 'audit subject 2 it''s ✓', 'audit note 2 it''s ✓');

SELECT setval(pg_get_serial_sequence('ci_audit', 'id'), 20);

INSERT INTO ci_branch (connection, project, name, tip, moved_at) VALUES ('branch connection 1 it''s ✓', 'branch project 1 it''s ✓', 'branch name 1 it''s ✓', '1111111111111111111111111111111111111111', '2026-03-29 01:30:00.123456');

INSERT INTO ci_branch (connection, project, name, tip, moved_at) VALUES ('branch connection 2 it''s ✓', 'branch project 2 it''s ✓', 'branch name 2 it''s ✓', '2222222222222222222222222222222222222222', '2026-07-07 01:30:00.123456');

INSERT INTO ci_change (connection, number, project, branch, change_id, subject, owner, url, status, patchset, updated_at, seen_at) VALUES ('change connection 1 it''s ✓', 10, 'change project 1 it''s ✓', 'change branch 1 it''s ✓', 'change change_id 1 it''s ✓', 'change subject 1 it''s ✓', 'change owner 1 it''s ✓', 'change url 1 it''s ✓', 'status 1', 2147483001, '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_change (connection, number, project, branch, change_id, subject, owner, url, status, patchset, updated_at, seen_at) VALUES ('change connection 2 it''s ✓', 20, 'change project 2 it''s ✓', 'change branch 2 it''s ✓', 'change change_id 2 it''s ✓', 'change subject 2 it''s ✓', 'change owner 2 it''s ✓', 'change url 2 it''s ✓', 'status 2', 2147483002, '2026-07-07 01:30:00.123456', NULL);

INSERT INTO ci_connection (name, state, message, since, malformed, unknown) VALUES ('connection name 1 it''s ✓', 'done', 'connection message 1 it''s ✓', '2026-03-29 01:30:00.123456', 10, 10);

INSERT INTO ci_connection (name, state, message, since, malformed, unknown) VALUES ('connection name 2 it''s ✓', 'queued', 'connection message 2 it''s ✓', '2026-07-07 01:30:00.123456', 20, 20);

INSERT INTO ci_event (id, connection, key, kind, project, change_number, patchset, payload, source, author, occurred_at, received_at, processed_at, decision) VALUES (10, 'event connection 1 it''s ✓', 'event key 1 it''s ✓', 'event kind 1 it''s ✓', 'event project 1 it''s ✓', 10, 2147483001, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'source 1', 'event author 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', 'event decision 1 it''s ✓');

INSERT INTO ci_event (id, connection, key, kind, project, change_number, patchset, payload, source, author, occurred_at, received_at, processed_at, decision) VALUES (20, 'event connection 2 it''s ✓', 'event key 2 it''s ✓', 'event kind 2 it''s ✓', 'event project 2 it''s ✓', 20, NULL, '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', 'source 2', 'event author 2 it''s ✓', '2026-07-07 01:30:00.123456', '2026-07-07 01:30:00.123456', NULL, NULL);

SELECT setval(pg_get_serial_sequence('ci_event', 'id'), 20);

INSERT INTO ci_leader (name, holder, incarnation, token, expires_at) VALUES ('leader name 1 it''s ✓', 'leader holder 1 it''s ✓', 'leader incarnation 1 it''s ✓', 10, '2026-03-29 01:30:00.123456');

INSERT INTO ci_leader (name, holder, incarnation, token, expires_at) VALUES ('leader name 2 it''s ✓', 'leader holder 2 it''s ✓', 'leader incarnation 2 it''s ✓', 20, '2026-07-07 01:30:00.123456');

INSERT INTO ci_node (name, label, provider, state, reason, failures, checked_at, token, tags, worker, holder, holder_worker, leased_at, expires_at) VALUES ('node name 1 it''s ✓', 'node label 1 it''s ✓', 'node provider 1 it''s ✓', 'done', 'node reason 1 it''s ✓', 10, '2026-03-29 01:30:00.123456', 10, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'node worker 1 it''s ✓', 'node holder 1 it''s ✓', 'node holder_worker 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_node (name, label, provider, state, reason, failures, checked_at, token, tags, worker, holder, holder_worker, leased_at, expires_at) VALUES ('node name 2 it''s ✓', 'node label 2 it''s ✓', 'node provider 2 it''s ✓', 'queued', 'node reason 2 it''s ✓', 20, NULL, 20, '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', NULL, NULL, NULL, NULL, NULL);

INSERT INTO ci_notice (id, kind, key, subject, text, url, facts, occurred_at) VALUES (10, 'notice kind 1 it''s ✓', 'notice key 1 it''s ✓', 'notice subject 1 it''s ✓', 'notice text 1 it''s ✓', 'notice url 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '2026-03-29 01:30:00.123456');

INSERT INTO ci_notice (id, kind, key, subject, text, url, facts, occurred_at) VALUES (20, 'notice kind 2 it''s ✓', 'notice key 2 it''s ✓', 'notice subject 2 it''s ✓', 'notice text 2 it''s ✓', 'notice url 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', '2026-07-07 01:30:00.123456');

SELECT setval(pg_get_serial_sequence('ci_notice', 'id'), 20);

INSERT INTO ci_pause (kind, name, by, why, since, until) VALUES ('pause kind 1 it''s ✓', 'pause name 1 it''s ✓', 'pause by 1 it''s ✓', 'pause why 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_pause (kind, name, by, why, since, until) VALUES ('pause kind 2 it''s ✓', 'pause name 2 it''s ✓', 'pause by 2 it''s ✓', 'pause why 2 it''s ✓', '2026-07-07 01:30:00.123456', NULL);

INSERT INTO ci_process (name, incarnation, roles, host, pid, version, slots, state, started_at, beat_at) VALUES ('process name 1 it''s ✓', 'process incarnation 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'process host 1 it''s ✓', 10, 'process version 1 it''s ✓', 10, 'done', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_process (name, incarnation, roles, host, pid, version, slots, state, started_at, beat_at) VALUES ('process name 2 it''s ✓', 'process incarnation 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', 'process host 2 it''s ✓', 20, 'process version 2 it''s ✓', 20, 'queued', '2026-07-07 01:30:00.123456', '2026-07-07 01:30:00.123456');

INSERT INTO ci_reporter (name, seen, since) VALUES ('reporter name 1 it''s ✓', 10, '2026-03-29 01:30:00.123456');

INSERT INTO ci_reporter (name, seen, since) VALUES ('reporter name 2 it''s ✓', 20, '2026-07-07 01:30:00.123456');

INSERT INTO ci_schema (version) VALUES (3);

INSERT INTO ci_turn (project, node_label, priority, turn) VALUES ('turn project 1 it''s ✓', 'turn node_label 1 it''s ✓', 10, 10);

INSERT INTO ci_turn (project, node_label, priority, turn) VALUES ('turn project 2 it''s ✓', 'turn node_label 2 it''s ✓', 20, 20);

INSERT INTO ci_watermark (connection, at) VALUES ('watermark connection 1 it''s ✓', '2026-03-29 01:30:00.123456');

INSERT INTO ci_watermark (connection, at) VALUES ('watermark connection 2 it''s ✓', '2026-07-07 01:30:00.123456');

INSERT INTO ci_buildset (id, connection, project, branch, change_number, patchset, revision, ref, pipeline, recheck, event_id, reason, requested_by, request, made_up, depends, state, verdict, created_at, finished_at) VALUES ('buildset id 1 it''s ✓', 'buildset connection 1 it''s ✓', 'buildset project 1 it''s ✓', 'buildset branch 1 it''s ✓', 10, 2147483001, '1111111111111111111111111111111111111111', 'buildset ref 1 it''s ✓', 'buildset pipeline 1 it''s ✓', 10, 10, 'buildset reason 1 it''s ✓', 'buildset requested_by 1 it''s ✓', 'buildset request 1 it''s ✓', true, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'done', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_buildset (id, connection, project, branch, change_number, patchset, revision, ref, pipeline, recheck, event_id, reason, requested_by, request, made_up, depends, state, verdict, created_at, finished_at) VALUES ('buildset id 2 it''s ✓', 'buildset connection 2 it''s ✓', 'buildset project 2 it''s ✓', 'buildset branch 2 it''s ✓', 20, 2147483002, '2222222222222222222222222222222222222222', 'buildset ref 2 it''s ✓', 'buildset pipeline 2 it''s ✓', 20, 20, 'buildset reason 2 it''s ✓', 'buildset requested_by 2 it''s ✓', 'buildset request 2 it''s ✓', false, NULL, 'queued', NULL, '2026-07-07 01:30:00.123456', NULL);

INSERT INTO ci_delivery (id, notice_id, reporter, state, tries, sender, sending_until, next_at, error, settled_at) VALUES (10, 10, 'delivery reporter 1 it''s ✓', 'done', 10, 'delivery sender 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', 'delivery error 1 it''s ✓', '2026-03-29 01:30:00.123456');

INSERT INTO ci_delivery (id, notice_id, reporter, state, tries, sender, sending_until, next_at, error, settled_at) VALUES (20, 20, 'delivery reporter 2 it''s ✓', 'queued', 20, NULL, NULL, '2026-07-07 01:30:00.123456', 'delivery error 2 it''s ✓', NULL);

SELECT setval(pg_get_serial_sequence('ci_delivery', 'id'), 20);

INSERT INTO ci_build (id, buildset_id, job_name, job, node_label, voting, state, waiting, cancel_reason, result, failure_class, reason, judgement, priority, turn, wants, requires, position, eta_at, worker, claim, logs, queued_at, started_at, finished_at) VALUES ('build id 1 it''s ✓', 'buildset id 1 it''s ✓', 'build job_name 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'build node_label 1 it''s ✓', true, 'done', 'build waiting 1 it''s ✓', 'build cancel_reason 1 it''s ✓', 'result 1', 'failure_class 1', 'build reason 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 10, 10, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 10, '2026-03-29 01:30:00.123456', 'build worker 1 it''s ✓', 10, 'build logs 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_build (id, buildset_id, job_name, job, node_label, voting, state, waiting, cancel_reason, result, failure_class, reason, judgement, priority, turn, wants, requires, position, eta_at, worker, claim, logs, queued_at, started_at, finished_at) VALUES ('build id 2 it''s ✓', 'buildset id 2 it''s ✓', 'build job_name 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', 'build node_label 2 it''s ✓', false, 'queued', 'build waiting 2 it''s ✓', NULL, NULL, NULL, 'build reason 2 it''s ✓', NULL, 20, 20, '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', NULL, NULL, NULL, 20, 'build logs 2 it''s ✓', '2026-07-07 01:30:00.123456', NULL, NULL);

INSERT INTO ci_outbox (id, buildset_id, connection, project, change_number, patchset, revision, tag, marker, message, label, value, state, stale, transport, tries, sender, sending_until, next_at, error, created_at, settled_at) VALUES (10, 'buildset id 1 it''s ✓', 'outbox connection 1 it''s ✓', 'outbox project 1 it''s ✓', 10, 2147483001, '1111111111111111111111111111111111111111', 'outbox tag 1 it''s ✓', 'outbox marker 1 it''s ✓', 'outbox message 1 it''s ✓', 'outbox label 1 it''s ✓', 10, 'done', 'stale 1', 'transpor 1', 10, 'outbox sender 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', 'outbox error 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_outbox (id, buildset_id, connection, project, change_number, patchset, revision, tag, marker, message, label, value, state, stale, transport, tries, sender, sending_until, next_at, error, created_at, settled_at) VALUES (20, 'buildset id 2 it''s ✓', 'outbox connection 2 it''s ✓', 'outbox project 2 it''s ✓', 20, 2147483002, '2222222222222222222222222222222222222222', 'outbox tag 2 it''s ✓', 'outbox marker 2 it''s ✓', 'outbox message 2 it''s ✓', NULL, NULL, 'queued', 'stale 2', 'transpor 2', 20, NULL, NULL, '2026-07-07 01:30:00.123456', 'outbox error 2 it''s ✓', '2026-07-07 01:30:00.123456', NULL);

SELECT setval(pg_get_serial_sequence('ci_outbox', 'id'), 20);

INSERT INTO ci_attempt (id, build_id, number, kind, state, phase, result, error, hint, node, token, peers, worker, claim, grade, hypervisor, facts, tip, tree, base_tree, exit_status, interrupted, dependency, started_at, leased_at, suite_started_at, finished_at) VALUES ('attempt id 1 it''s ✓', 'build id 1 it''s ✓', 10, 'kind 1', 'done', 'phase 1', 'result 1', 'attempt error 1 it''s ✓', 'attempt hint 1 it''s ✓', 'attempt node 1 it''s ✓', 10, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'attempt worker 1 it''s ✓', 10, 'grade 1', 'attempt hypervisor 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '1111111111111111111111111111111111111111', '1111111111111111111111111111111111111111', '1111111111111111111111111111111111111111', 10, true, true, '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_attempt (id, build_id, number, kind, state, phase, result, error, hint, node, token, peers, worker, claim, grade, hypervisor, facts, tip, tree, base_tree, exit_status, interrupted, dependency, started_at, leased_at, suite_started_at, finished_at) VALUES ('attempt id 2 it''s ✓', 'build id 2 it''s ✓', 20, 'kind 2', 'queued', 'phase 2', NULL, 'attempt error 2 it''s ✓', 'attempt hint 2 it''s ✓', NULL, NULL, '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', NULL, 20, 'grade 2', 'attempt hypervisor 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', NULL, NULL, NULL, NULL, false, false, '2026-07-07 01:30:00.123456', NULL, NULL, NULL);

INSERT INTO ci_pin (build_id, by, why, at) VALUES ('build id 1 it''s ✓', 'pin by 1 it''s ✓', 'pin why 1 it''s ✓', '2026-03-29 01:30:00.123456');

INSERT INTO ci_pin (build_id, by, why, at) VALUES ('build id 2 it''s ✓', 'pin by 2 it''s ✓', 'pin why 2 it''s ✓', '2026-07-07 01:30:00.123456');

INSERT INTO ci_outcome (id, attempt_id, test_id, status, duration_s, message, details) VALUES (10, 'attempt id 1 it''s ✓', 'outcome test_id 1 it''s ✓', 'status 1', 1.5, 'outcome message 1 it''s ✓', 'outcome details 1 it''s ✓');

INSERT INTO ci_outcome (id, attempt_id, test_id, status, duration_s, message, details) VALUES (20, 'attempt id 2 it''s ✓', 'outcome test_id 2 it''s ✓', 'status 2', 3.0, 'outcome message 2 it''s ✓', 'outcome details 2 it''s ✓');

SELECT setval(pg_get_serial_sequence('ci_outcome', 'id'), 20);
